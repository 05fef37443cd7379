"""job.py GATEWAY CLUSTER TIMEOUT < STATEMENTS

Runs SQL statements, each ended by a semicolon at the end of its line, in a
session of Flink's SQL gateway, and waits for the job that the last one
starts. Prints what the cluster says of it: its identifier, milliseconds from
running to finished, and completed checkpoints. Python's standard library, nothing more.
"""
import json
import sys
import time
import urllib.error
import urllib.request


def call(method, url, body=None):
    request = urllib.request.Request(url, method=method, headers={"Content-Type": "application/json"},
                                     data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        sys.exit(reason(error.read().decode(errors="replace")))


def reason(text):
    """What is worth reading of a stack trace: the causes."""
    lines = text.replace("\\n", "\n").replace("\\t", "\t").splitlines()
    causes = [line for line in lines if line.startswith("Caused by:")]
    return "\n".join(causes[-3:] or lines)[:2000]


def execute(session, statement):
    """Run one statement, and return the job that it started, if any."""
    operation = session + "/operations/" + call("POST", session + "/statements", {"statement": statement})["operationHandle"]
    while call("GET", operation + "/status")["status"] in ("INITIALIZED", "PENDING", "RUNNING"):
        time.sleep(0.02)
    result = call("GET", operation + "/result/0")
    while result["resultType"] == "NOT_READY":
        time.sleep(0.02)
        result = call("GET", operation + "/result/0")
    return result.get("jobID")


def wait(cluster, job, timeout):
    url = f"{cluster}/jobs/{job}"
    until = time.monotonic() + timeout
    state = call("GET", url)["state"]
    while state not in ("FINISHED", "FAILED", "CANCELED"):
        if time.monotonic() > until:
            call("PATCH", url + "?mode=cancel")
            sys.exit(f"the job has not ended after {timeout} s; it was cancelled")
        time.sleep(0.1)
        state = call("GET", url)["state"]
    if state != "FINISHED":
        sys.exit(f"the job {state.lower()}:\n" + reason(json.dumps(call("GET", url + "/exceptions"))))
    times = call("GET", url)["timestamps"]
    completed = call("GET", url + "/checkpoints")["counts"]["completed"]
    print(job, times["FINISHED"] - times["RUNNING"], completed)


gateway, cluster, timeout = sys.argv[1:]
session = f"{gateway}/v1/sessions"
session = f"{session}/{call('POST', session, {})['sessionHandle']}"
job = None
for text in sys.stdin.read().split(";\n"):
    if text.strip():
        job = execute(session, text.strip())
if job is None:
    sys.exit("no statement started a job")
wait(cluster, job, float(timeout))
call("DELETE", session)
