// Serves DynamoDB on a free port of this machine, in memory, until standard
// input ends: the registry of serial numbers of rehearsals and tests. It is
// dynalite, which npm ci installs in infra/.
//
//   node scripts/dynamodb.mjs TABLE...
//
// Each TABLE is created with the partition key serialNumber, a string. Prints
// the endpoint when all are ready.
import {createRequire} from 'node:module'

const dynalite = createRequire(new URL('../infra/package.json', import.meta.url))('dynalite')
const server = dynalite({createTableMs: 0})
await new Promise((ready) => server.listen(0, '127.0.0.1', ready))
const endpoint = `http://127.0.0.1:${server.address().port}`

async function call(operation, request) {
	const answer = await fetch(endpoint, {
		method: 'POST',
		headers: {
			'X-Amz-Target': `DynamoDB_20120810.${operation}`,
			'Content-Type': 'application/x-amz-json-1.0',
			'X-Amz-Date': '20260101T000000Z',
			Authorization: 'AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0',
		},
		body: JSON.stringify(request),
	})
	if (!answer.ok) throw new Error(`${operation}: ${await answer.text()}`)
	return answer.json()
}

for (const TableName of process.argv.slice(2)) {
	await call('CreateTable', {
		TableName,
		AttributeDefinitions: [{AttributeName: 'serialNumber', AttributeType: 'S'}],
		KeySchema: [{AttributeName: 'serialNumber', KeyType: 'HASH'}],
		BillingMode: 'PAY_PER_REQUEST',
	})
	while ((await call('DescribeTable', {TableName})).Table.TableStatus !== 'ACTIVE') await new Promise((again) => setTimeout(again, 5))
}
console.log(endpoint)
process.stdin.on('end', () => process.exit()).resume()
