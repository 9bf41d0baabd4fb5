"""A life of a thing with AWS's SDK for Python, unmodified; see boto3_test.go.

Prints what the service answered as one JSON object.
"""
import json
import sys

import boto3
from botocore.config import Config

api, csr = sys.argv[1], sys.stdin.read()


def client(service):
    return boto3.client(service, region_name="us-east-1", endpoint_url=api, aws_access_key_id="any",
                        aws_secret_access_key="any", config=Config(retries={"max_attempts": 1}))


iot, data, jobs, tunnels = (client(s) for s in ("iot", "iot-data", "iot-jobs-data", "iotsecuretunneling"))
said = {}

# Registry, certificates and policies, through paginators and exceptions.
iot.create_thing_type(thingTypeName="sensor", thingTypeProperties={"searchableAttributes": ["room"]}, tags=[{"Key": "a", "Value": "b"}])
iot.create_thing_group(thingGroupName="floor")
for name in ("one", "two", "three"):
    iot.create_thing(thingName=name, thingTypeName="sensor", attributePayload={"attributes": {"room": "7"}})
    iot.add_thing_to_thing_group(thingGroupName="floor", thingName=name)
pages = iot.get_paginator("list_things").paginate(thingTypeName="sensor", PaginationConfig={"PageSize": 2})
said["things"] = sorted(t["thingName"] for page in pages for t in page["things"])
said["group"] = sorted(iot.list_things_in_thing_group(thingGroupName="floor")["things"])
certificate = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
iot.create_policy(policyName="all", policyDocument=json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}))
iot.attach_policy(policyName="all", target=certificate["certificateArn"])
iot.attach_thing_principal(thingName="one", principal=certificate["certificateArn"])
said["principals"] = iot.list_thing_principals(thingName="one")["principals"] == [certificate["certificateArn"]]
said["created"] = iot.describe_certificate(certificateId=certificate["certificateId"])["certificateDescription"]["creationDate"].year > 2020
said["exceptions"] = []
for call, expected in (
    (lambda: iot.describe_thing(thingName="four"), iot.exceptions.ResourceNotFoundException),
    (lambda: iot.create_thing(thingName="one"), iot.exceptions.ResourceAlreadyExistsException),
    (lambda: iot.delete_certificate(certificateId=certificate["certificateId"]), iot.exceptions.CertificateStateException),
    (lambda: iot.delete_policy(policyName="all"), iot.exceptions.DeleteConflictException),
    (lambda: iot.update_thing(thingName="one", expectedVersion=9), iot.exceptions.VersionConflictException),
    (lambda: data.get_thing_shadow(thingName="one"), data.exceptions.ResourceNotFoundException),
    (lambda: data.update_thing_shadow(thingName="one", payload=b"{}{"), data.exceptions.InvalidRequestException),
    (lambda: jobs.describe_job_execution(thingName="one", jobId="none"), jobs.exceptions.ResourceNotFoundException),
):
    try:
        call()
    except expected as e:
        said["exceptions"].append(e.response["Error"]["Code"])

# Shadow, job, tunnel, message.
data.update_thing_shadow(thingName="one", shadowName="config", payload=json.dumps({"state": {"desired": {"rate": 5}}}))
said["shadow"] = json.loads(data.get_thing_shadow(thingName="one", shadowName="config")["payload"].read())["state"]
said["shadows"] = data.list_named_shadows_for_thing(thingName="one")["results"]
iot.create_job(jobId="update", targets=["arn:aws:iot:us-east-1:123456789012:thing/one"], document='{"operation":"update"}',
               jobExecutionsRolloutConfig={"maximumPerMinute": 50}, timeoutConfig={"inProgressTimeoutInMinutes": 5})
execution = jobs.start_next_pending_job_execution(thingName="one", statusDetails={"step": "1"})["execution"]
jobs.update_job_execution(thingName="one", jobId="update", status="SUCCEEDED", expectedVersion=execution["versionNumber"])
said["job"] = iot.describe_job(jobId="update")["job"]["status"]
said["execution"] = iot.describe_job_execution(jobId="update", thingName="one")["execution"]["status"]
tunnel = tunnels.open_tunnel(destinationConfig={"thingName": "one", "services": ["SSH"]})
said["tunnel"] = tunnels.describe_tunnel(tunnelId=tunnel["tunnelId"])["tunnel"]["status"]
tunnels.close_tunnel(tunnelId=tunnel["tunnelId"], delete=True)
data.publish(topic="chat", qos=1, payload=b"hello", retain=True)
said["retained"] = data.get_retained_message(topic="chat")["payload"].decode()
said["rule"] = iot.create_topic_rule(ruleName="copy", topicRulePayload={
    "sql": "SELECT * FROM 'chat'", "actions": [{"republish": {"roleArn": "arn:aws:iam::123456789012:role/r", "topic": "copy"}}]})["ResponseMetadata"]["HTTPStatusCode"]
json.dump(said, sys.stdout)
