// Provisions a device by claim with the AWS IoT Device SDK, then connects with
// the new identity and publishes; see awssdk_test.go.
'use strict';

const { iotidentity, mqtt } = require('aws-iot-device-sdk-v2');
const { run } = require('./connection.js');

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
const identities = {
	mqtt311(connection) {
		const client = new iotidentity.IotIdentityClient(connection);
		return {
			ask: (operation, message) => request(client, operation, message),
			close: () => {},
		};
	},
	mqtt5(connection) {
		const client = iotidentity.IotIdentityClientv2.newFromMqtt5(connection, {
			maxRequestResponseSubscriptions: 6, maxStreamingSubscriptions: 0, operationTimeoutInSeconds: 20,
		});
		return {
			ask: (operation, message) => client[operation[0].toLowerCase() + operation.slice(1)](message),
			close: () => client.close(),
		};
	},
};

run(async (work, protocol) => {
	const claim = await protocol.connect(`claim-${work.protocol}`, work.certificate, work.key);
	const identity = identities[work.protocol](claim);
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
});
