// Connects with the AWS IoT Device SDK in either version of MQTT, and runs a
// test's work: it takes the work as JSON on stdin and prints the result as JSON.
'use strict';

const { readFileSync } = require('node:fs');
const { iot, mqtt, mqtt5 } = require('aws-iot-device-sdk-v2');

const work = JSON.parse(readFileSync(0, 'utf8'));

const protocols = {
	mqtt311: {
		async connect(clientID, certificate, key) {
			const config = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder(certificate, key)
				.with_certificate_authority(work.root).with_endpoint(work.endpoint).with_port(work.port)
				.with_client_id(clientID).with_clean_session(true).build();
			const connection = new mqtt.MqttClient().new_connection(config);
			await connection.connect();
			return connection;
		},
		publish: (connection, topic, payload) => connection.publish(topic, payload, mqtt.QoS.AtLeastOnce),
		disconnect: (connection) => connection.disconnect(),
	},
	mqtt5: {
		async connect(clientID, certificate, key) {
			const config = iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromMemory(work.endpoint, certificate, key)
				.withCertificateAuthority(work.root).withPort(work.port)
				.withConnectProperties({ clientId: clientID, keepAliveIntervalSeconds: 60 }).build();
			const client = new mqtt5.Mqtt5Client(config);
			await new Promise((resolve, reject) => {
				client.once('connectionSuccess', resolve);
				client.once('connectionFailure', (event) => reject(event.error));
				client.start();
			});
			return client;
		},
		async publish(connection, topic, payload) {
			const ack = await connection.publish({ topicName: topic, payload, qos: mqtt5.QoS.AtLeastOnce });
			if (ack.reasonCode !== 0) {
				throw new Error(`PUBACK with reason ${ack.reasonCode}`);
			}
		},
		async disconnect(client) {
			await new Promise((resolve) => {
				client.once('stopped', resolve);
				client.stop();
			});
			client.close();
		},
	},
};

// Without exit, the SDK's threads would keep the process for seconds, and may
// abort it when the last of them ends.
function run(main) {
	main(work, protocols[work.protocol]).then(
		(result) => process.stdout.write(JSON.stringify(result), () => process.exit(0)),
		(error) => {
			console.error(error);
			process.exit(1);
		},
	);
}

module.exports = { run };
