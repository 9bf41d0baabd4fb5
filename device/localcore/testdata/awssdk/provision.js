// Provisions a device by claim with the AWS IoT Device SDK, then connects with
// the new identity and publishes. It takes its work as JSON on stdin and
// prints the result as JSON; see awssdk_test.go.
'use strict';

const { readFileSync } = require('node:fs');
const { iot, iotidentity, mqtt, mqtt5 } = require('aws-iot-device-sdk-v2');

const work = JSON.parse(readFileSync(0, 'utf8'));

// request publishes on one of the service's topics and waits for the answer on
// the topics that belong to it.
function request(client, operation, message) {
	const qos = mqtt.QoS.AtLeastOnce;
	return new Promise(async (resolve, reject) => {
		const settle = (error, response) => (error ? reject(error) : resolve(response));
		const refuse = (error, response) => reject(error ?? response);
		try {
			await client[`subscribeTo${operation}Accepted`](message, qos, settle);
			await client[`subscribeTo${operation}Rejected`](message, qos, refuse);
			await client[`publish${operation}`](message, qos);
		} catch (error) {
			reject(error);
		}
	});
}

// Each protocol goes with one generation of the SDK's identity client.
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
		identity(connection) {
			const client = new iotidentity.IotIdentityClient(connection);
			return {
				ask: (operation, message) => request(client, operation, message),
				close: () => {},
			};
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
		identity(connection) {
			const client = iotidentity.IotIdentityClientv2.newFromMqtt5(connection, {
				maxRequestResponseSubscriptions: 6, maxStreamingSubscriptions: 0, operationTimeoutInSeconds: 20,
			});
			return {
				ask: (operation, message) => client[operation[0].toLowerCase() + operation.slice(1)](message),
				close: () => client.close(),
			};
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

async function main() {
	const protocol = protocols[work.protocol];
	const claim = await protocol.connect(`claim-${work.protocol}`, work.certificate, work.key);
	const identity = protocol.identity(claim);
	const made = work.csr
		? await identity.ask('CreateCertificateFromCsr', { certificateSigningRequest: work.csr })
		: await identity.ask('CreateKeysAndCertificate', {});
	const registered = await identity.ask('RegisterThing', {
		templateName: work.template,
		certificateOwnershipToken: made.certificateOwnershipToken,
		parameters: work.parameters,
	});
	identity.close();
	await protocol.disconnect(claim);

	const device = await protocol.connect(registered.thingName, made.certificatePem, made.privateKey ?? work.csrKey);
	await protocol.publish(device, `fleet/${registered.thingName}`, 'born');
	await protocol.disconnect(device);
	return { certificateId: made.certificateId, ...registered };
}

// Without exit, the SDK's threads would keep the process for seconds, and may
// abort it when the last of them ends.
main().then(
	(result) => process.stdout.write(JSON.stringify(result), () => process.exit(0)),
	(error) => {
		console.error(error);
		process.exit(1);
	},
);
