"""The CloudEvents SDK sends each event in each of its modes; prints every answer's status and body."""

import json
import sys

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from link import Plain


def post(path, headers, body):
    link = Plain(path)
    link.request("POST", "/v1/events", body=body, headers=headers)
    answer = link.getresponse()
    print(json.dumps({"status": answer.status, "body": json.loads(answer.read())}))


def event(identity, value):
    attributes = {"id": identity, "source": "/shop/ä", "type": "orders", "datacontenttype": "application/json"}
    return CloudEvent(attributes=attributes, data={"value": value})


def main(path):
    for message in [
        to_structured_event(event("1", 5)),
        to_binary_event(event("2", 6)),
        to_binary_event(event("1", 5)),
        to_structured_event(event("2", 7)),
    ]:
        post(path, message.headers, message.body)
    batch = [json.loads(to_structured_event(event(str(n), 1)).body) for n in range(10, 20)]
    post(path, {"content-type": "application/cloudevents-batch+json"}, json.dumps(batch))


main(sys.argv[1])
