"""Prints the constraints of AWS's service models on the inputs of the operations named on stdin.

It also prints which of them have no output. See TestConstraintsAreThoseOfTheServiceModels, which
runs this. A shape has its type, its bounds (of a length or of a number), its pattern in Go's syntax,
its values, and its members by the names that they have in a request. Strings, numbers and Booleans
without any constraint are all the same.
"""
import json
import re
import sys

import botocore
import botocore.session

SERVICES = {"iot": "", "iot-data": "", "iot-jobs-data": "iot-jobs-data.", "iotsecuretunneling": "IoTSecuredTunneling."}
emulated = set(sys.stdin.read().split())
shapes, operations, taken, without_output = {}, {}, {}, set()
ACTIONS = ("lambda", "republish", "http")  # that are emulated


def pattern_in_go(pattern):
    """Java's pattern in Go's syntax, as a whole, and a bound of its length, if it has one."""
    pattern = re.sub(r"^\^|\$$", "", pattern)
    for java, go in (("\\p{Graph}", "[:graph:]"), ("\\p{Upper}", "[:upper:]"), ("\\p{Digit}", "[:digit:]"), ("[!-~]", "[\\x21-\\x7e]")):
        pattern = pattern.replace(java, go)
    length = re.fullmatch(r"(\[.*\]|\\\w)\{(\d+),(\d+)\}", pattern)
    if length:  # Go counts to 1,000
        return length[1] + "*", int(length[2]), int(length[3])
    return pattern, None, None


def wire_name(name, member):
    name = member.serialization.get("name", name)
    if member.serialization.get("location") == "header":
        name = "-".join(word.capitalize() for word in name.split("-"))
    return name


def describe(shape):
    """The shape in the form that is printed."""
    if shape.name == "PolicyVersionId":
        return {"type": "integer", "min": 0}  # digits in a string
    out = {"type": shape.type_name}
    metadata = shape.metadata
    if (shape.name, shape.type_name) == ("MessageExpiry", "long"):
        metadata = {"min": 0, "max": (1 << 32) - 1}  # MQTT 5, 3.3.2.3.3; the model has none
    if "enum" in metadata:
        out["enum"] = metadata["enum"]
    if "pattern" in metadata and metadata["pattern"] not in ("[\\s\\S]*", "[\\S\\s]*"):
        pattern, least, most = pattern_in_go(metadata["pattern"])
        out["pattern"] = f"^(?:{pattern})$"
        metadata = {"min": least, "max": most, **metadata}
    for bound in ("min", "max"):
        if metadata.get(bound) is not None and (bound, metadata[bound], "pattern" in out) != ("min", 0, True):
            out[bound] = metadata[bound]
    if shape.type_name == "structure":
        members = {n: m for n, m in shape.members.items() if m.type_name != "blob"}
        out["members"] = {wire_name(n, m): add(m) if shape.name != "Action" or n in ACTIONS else "any" for n, m in members.items()}
        payload = shape.serialization.get("payload")
        if payload in members:
            out["payload"] = wire_name(payload, members[payload])
        out["required"] = [wire_name(n, m) for n, m in members.items()
                           if n in shape.required_members and m.serialization.get("location") not in ("uri", "header")]
    elif shape.type_name == "list":
        out["element"] = add(shape.member)
    elif shape.type_name == "map":
        out["key"], out["value"] = add(shape.key), add(shape.value)
    return {k: v for k, v in out.items() if v not in ([], {})}


def add(shape):
    """Adds the shape and returns its name; shapes of one name that differ get names of their own."""
    if shape.type_name in ("timestamp", "blob"):
        return "string"
    out = describe(shape)
    name = shape.name if len(out) > 1 else out["type"]
    while taken.setdefault(name, out) != out:
        name += "_"
    shapes[name] = out
    return name


for service, prefix in SERVICES.items():
    model = botocore.session.get_session().get_service_model(service)
    for name in model.operation_names:
        operation = model.operation_model(name)
        if (name in emulated or service == "iotsecuretunneling") and operation.input_shape:
            operations[prefix + name] = add(operation.input_shape)
            operations.setdefault(name, operations[prefix + name])
        if name in emulated and not operation.output_shape:
            without_output.add(name)

# Of these operations no model knows the constraints that the developer guide names.
client = {"clientId": "ClientId"}
for name, members in {
    "GetConnection": {**client, "includeSocketInformation": "boolean"},
    "ListSubscriptions": {**client, "maxResults": "SubscriptionsMaxResults", "nextToken": "string"},
    "SendDirectMessage": {**client, "topic": "string", "confirmation": "boolean", "timeout": "ConfirmationTimeout",
                          "contentType": "string", "responseTopic": "string"},
}.items():
    operations.setdefault(name, name + "Request")
    shapes.setdefault(name + "Request", {"type": "structure", "members": members})
shapes.setdefault("SubscriptionsMaxResults", {"type": "integer", "min": 1, "max": 200})
shapes.setdefault("ConfirmationTimeout", {"type": "integer", "min": 1, "max": 15})


def lines(entries):
    return ",\n".join(json.dumps(k) + ": " + json.dumps(v) for k, v in sorted(entries.items()))


print('{"botocore": "%s",\n"operations": {\n%s\n},\n"withoutOutput": %s,\n"shapes": {\n%s\n}}' % (
    botocore.__version__, lines(operations), json.dumps(sorted(without_output)), lines(shapes)))
