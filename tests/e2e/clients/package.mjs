// A program that uses the installed package; prints the received values as one line of JSON.
import { connect } from "realtime-streams-client";

const { GATEWAY: url, TOKEN: token, READER: reader } = process.env;
const gateway = connect({ url, token });

const until = (source, isWanted) =>
  new Promise((resolve) => {
    const stop = source.subscribe((snapshot) => {
      if (!isWanted(snapshot)) return;
      resolve(snapshot);
      queueMicrotask(() => stop());
    });
  });

let withoutUrl = null;
try {
  connect({ token });
} catch (error) {
  withoutUrl = error.message;
}
const task = gateway.task("ask-for-package");
const states = [];
task.subscribe(({ isPending, count }) => states.push([isPending, count]));
await task.trigger({ question: "why" });
const { id } = task.snapshot.handle;
const answer = gateway.stream(id, "package-answer", { parts: true });
const { parts } = await until(answer, ({ parts }) => parts.finish !== null);
const approval = gateway.input(id, "package-approval");
await approval.send({ ok: true });
const { run } = await until(gateway.run(id), ({ run }) => run?.is_completed);

await task.trigger({ question: "forever" });
const { id: other } = task.snapshot.handle;
await until(gateway.run(other), ({ run }) => run?.is_executing);
const canceled = await gateway.cancel(other);
const { run: ended } = await until(gateway.run(other), ({ run }) => run?.is_completed);

const powerless = connect({ url, token: reader });
const refused = powerless.input(id, "package-approval");
await refused.send({ ok: false });
const unknown = powerless.cancel(id).catch(({ name, code }) => ({ name, code }));

console.log(
  JSON.stringify({
    withoutUrl,
    states,
    text: parts.text,
    sent: approval.snapshot,
    output: run.output,
    asked: typeof canceled.cancel_requested_at,
    ended: ended.status,
    refused: refused.snapshot.error.code,
    notCanceled: (await unknown).code,
  }),
);
process.exit();
