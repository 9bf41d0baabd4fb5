// Uses the shadows and jobs of a thing with the clients of the AWS IoT Device
// SDK; see awssdk_test.go.
'use strict';

const { iotjobs, iotshadow } = require('aws-iot-device-sdk-v2');
const { run } = require('./connection.js');

const options = { maxRequestResponseSubscriptions: 6, maxStreamingSubscriptions: 4, operationTimeoutInSeconds: 20 };

// opened waits until a stream is subscribed and returns its next event.
async function opened(stream) {
	const next = new Promise((resolve) => stream.on('incomingPublish', resolve));
	const subscribed = new Promise((resolve) => stream.on('subscriptionStatus', resolve));
	stream.open();
	await subscribed;
	return { next };
}

async function codeOf(promise) {
	try {
		await promise;
		return 'accepted';
	} catch (error) {
		return error.modeledError?.code ?? String(error);
	}
}

run(async (work, protocol) => {
	const thingName = work.thing, shadowName = 'S';
	const connection = await protocol.connect(work.thing, work.certificate, work.key);
	const construct = (client) => (work.protocol === 'mqtt5' ? client.newFromMqtt5 : client.newFromMqtt311)(connection, options);
	const shadows = construct(iotshadow.IotShadowClientv2), jobs = construct(iotjobs.IotJobsClientv2);
	const result = {};

	result.missing = await codeOf(shadows.getShadow({ thingName }));
	const delta = await opened(shadows.createNamedShadowDeltaUpdatedStream({ thingName, shadowName }));
	const updated = await shadows.updateNamedShadow({ thingName, shadowName, state: { desired: { color: 'red' }, reported: { color: 'blue' } } });
	result.version = updated.version;
	result.delta = (await delta.next).message.state;
	result.conflict = await codeOf(shadows.updateNamedShadow({ thingName, shadowName, state: {}, version: 7 }));
	result.state = (await shadows.getNamedShadow({ thingName, shadowName })).state;
	await shadows.deleteNamedShadow({ thingName, shadowName });

	result.pending = (await jobs.getPendingJobExecutions({ thingName })).queuedJobs.map((job) => job.jobId);
	const started = (await jobs.startNextPendingJobExecution({ thingName })).execution;
	result.document = started.jobDocument;
	result.mismatch = await codeOf(jobs.updateJobExecution({ thingName, jobId: started.jobId, status: 'IN_PROGRESS', expectedVersion: 9 }));
	const next = await opened(jobs.createNextJobExecutionChangedStream({ thingName }));
	await jobs.updateJobExecution({ thingName, jobId: started.jobId, status: 'SUCCEEDED', expectedVersion: started.versionNumber });
	result.next = (await next.next).message.execution ?? 'none';
	result.described = await codeOf(jobs.describeJobExecution({ thingName, jobId: 'none' }));

	shadows.close();
	jobs.close();
	await protocol.disconnect(connection);
	return result;
});
