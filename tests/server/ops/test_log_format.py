import json
import logging
import subprocess
import sys

import httpx
import pytest
from websockets.asyncio.client import connect

from gateway import task
from gateway.server.ops.log_format import JsonFormatter, without_secrets
from tests.support.gateways import gateway_process, token_for, until, working


def record_of(message, *args, name="realtime.test", level=logging.INFO, exc_info=None, **extra):
    return logging.getLogger(name).makeRecord(
        name, level, __file__, 1, message, args, exc_info, extra=extra
    )


def line_of(*args, **options):
    text = JsonFormatter().format(record_of(*args, **options))
    assert "\n" not in text
    return json.loads(text)


def test_line_has_time_level_logger_message_and_context():
    line = line_of("%d of %d", 1, 2, connection="c_1", run="run_1", stream="s")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "realtime.test",
        "message": "1 of 2",
        "connection": "c_1",
        "run": "run_1",
        "stream": "s",
    }


def test_a_line_with_half_an_emoji_is_written_all_the_same():
    try:
        raise ValueError("cannot parse \ud83d")
    except ValueError:
        line = line_of("run %s", "\ud83d", exc_info=sys.exc_info())
    assert line["message"] == "run \ud83d"
    assert "cannot parse" in line["error"]


def test_a_traceback_stays_in_its_line():
    try:
        raise ValueError("no such thing")
    except ValueError:
        line = line_of("failed", exc_info=sys.exc_info())
    assert line["error"].startswith("Traceback") and line["error"].endswith("no such thing")


def test_unserializable_field_is_logged_as_repr():
    assert line_of("m", run=object())["run"].startswith("<object")


def test_an_access_has_its_parts():
    line = line_of(
        '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/x", "1.1", 404, name="uvicorn.access"
    )
    assert (line["client"], line["method"], line["path"]) == ("1.2.3.4:5", "GET", "/x")
    assert line["status"] == 404


@pytest.mark.parametrize(
    "words", ["the token %s is bad", "Authorization: Bearer %s", '{"token":"%s"}', "bearer %s;"]
)
def test_a_token_is_taken_out_wherever_it_is(words):
    token = token_for("read:runs:*")
    text = without_secrets(words % token)
    assert token not in text and token.split(".")[2] not in text
    assert "[secret]" in text


def test_a_bearers_secret_is_taken_out_and_the_rest_stays():
    assert without_secrets("Bearer abc-123, and more") == "Bearer [secret] and more"
    assert without_secrets("run_eyJ of the bearer") == "run_eyJ of the bearer"


async def test_task_log_line_names_its_run():
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(json.loads(JsonFormatter().format(record)))

    log = logging.getLogger("a library")
    handler = Keep()
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    @task
    async def works():
        log.info("in the loop")

    @task
    def works_in_a_thread():
        log.info("in a thread")

    try:
        async with working():
            for each in (works, works_in_a_thread):
                result = await each.trigger_and_wait()
                assert lines[-1]["run"] == result.run_id
                assert lines[-1]["task"] == each.id
    finally:
        log.removeHandler(handler)
    assert [line["message"] for line in lines] == ["in the loop", "in a thread"]


async def test_a_run_that_fails_is_logged_with_its_id(caplog):
    @task
    async def fails():
        raise ValueError("no")

    async with working():
        result = await fails.trigger_and_wait()
    (record,) = [r for r in caplog.records if r.name == "realtime.runner"]
    assert (record.run, record.task) == (result.run_id, "fails")


async def test_each_line_of_a_gateway_is_json_and_none_has_a_token(tmp_path):
    token = token_for("read:runs:*")
    options = ("--log-level", "debug")
    with gateway_process("memory:", tmp_path, *options, REALTIME_LOG_FORMAT="json") as process:
        async with httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{process.port}/v1/runs?token={token}"
            assert (await http.get(url)).status_code == 400
        async with connect(f"{process.url}/v1/ws") as socket_:
            hello = {"type": "hello", "protocol": 1, "token": token}
            await socket_.send(json.dumps(hello))
            await socket_.recv()
        await until(lambda: "/v1/runs" in process.log)
        process.stop()
        lines = [json.loads(line) for line in process.log.splitlines()]
    assert any(line.get("path") == "/v1/runs" and line["status"] == 400 for line in lines)
    assert any("Realtime gateway on" in line["message"] for line in lines)
    assert token.split(".")[2] not in process.log


TEXT = """
import logging.config
from gateway.server.ops.log_format import log_config
logging.config.dictConfig(log_config("text", "info"))
logging.getLogger("realtime.sweeper").info("swept %d", 3)
logging.getLogger("realtime.sweeper").debug("not this")
logging.getLogger("another").info("nor this")
access = '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/x", "1.1", 404
logging.getLogger("uvicorn.access").info(*access)
"""


def test_text_is_as_uvicorn_writes_it_with_the_gateways_own_lines():
    done = subprocess.run([sys.executable, "-c", TEXT], capture_output=True, text=True, timeout=60)
    assert done.stderr == "INFO:     swept 3\n"
    assert done.stdout == 'INFO:     1.2.3.4:5 - "GET /x HTTP/1.1" 404 Not Found\n'
