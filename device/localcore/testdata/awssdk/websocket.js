// Connects over WebSocket, with the AWS IoT Device SDK or with MQTT.js, and
// receives what it publishes; see websocket_test.go.
'use strict';

const { auth, iot, mqtt, mqtt5 } = require('aws-iot-device-sdk-v2');
const { connect } = require('mqtt');
const { run } = require('./connection.js');

const topic = 'chat', payload = 'hello', clientId = 'browser';

const clients = {
	async sdk(work) {
		const provider = auth.AwsCredentialsProvider.newStatic(work.key, work.secret, 'token');
		if (work.protocol === 'mqtt311') {
			const config = iot.AwsIotMqttConnectionConfigBuilder.new_with_websockets({ region: work.region, credentials_provider: provider })
				.with_certificate_authority(work.root).with_endpoint(work.endpoint).with_port(work.port)
				.with_client_id(clientId).with_clean_session(true).build();
			const connection = new mqtt.MqttClient().new_connection(config);
			await connection.connect();
			return new Promise((resolve) => {
				const received = (topic, payload) => resolve({ topic, payload: Buffer.from(payload).toString() });
				connection.subscribe(topic, mqtt.QoS.AtLeastOnce, received)
					.then(() => connection.publish(topic, payload, mqtt.QoS.AtLeastOnce));
			});
		}
		const config = iot.AwsIotMqtt5ClientConfigBuilder.newWebsocketMqttBuilderWithSigv4Auth(work.endpoint, { region: work.region, credentialsProvider: provider })
			.withCertificateAuthority(work.root).withPort(work.port).withConnectProperties({ clientId, keepAliveIntervalSeconds: 60 }).build();
		const client = new mqtt5.Mqtt5Client(config);
		await new Promise((resolve, reject) => {
			client.once('connectionSuccess', resolve);
			client.once('connectionFailure', (event) => reject(event.error));
			client.start();
		});
		const received = new Promise((resolve) => client.on('messageReceived', ({ message }) => resolve(message)));
		await client.subscribe({ subscriptions: [{ topicFilter: topic, qos: mqtt5.QoS.AtLeastOnce }] });
		await client.publish({ topicName: topic, payload, qos: mqtt5.QoS.AtLeastOnce });
		const message = await received;
		return { topic: message.topicName, payload: Buffer.from(message.payload).toString() };
	},
	mqttjs: (work) => new Promise((resolve, reject) => {
		const client = connect(work.url, { clientId, protocolVersion: work.protocol === 'mqtt5' ? 5 : 4, reconnectPeriod: 0 });
		client.on('error', reject);
		client.on('message', (topic, payload) => resolve({ topic, payload: payload.toString() }));
		client.on('connect', () => client.subscribe(topic, { qos: 1 }, () => client.publish(topic, payload, { qos: 1 })));
	}),
};

run((work) => clients[work.client](work));
