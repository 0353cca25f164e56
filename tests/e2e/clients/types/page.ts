// Compiled, never run: each line has to be what `client.d.ts` promises.
import { RealtimeError, connect } from "./client.js";

interface Progress {
  current: number;
  total: number;
}

const gateway = connect({ url: new URL("https://live.example.com"), token: async () => "eyJ" });
connect();

const source = gateway.stream<Progress>("run_1", "progress", { start: { last: 10 } });
const stop: () => void = source.subscribe(({ latest, data, status }) => {
  const done: number | undefined = latest?.current;
  const all: readonly Progress[] = data;
  if (status === "ended") stop();
  // @ts-expect-error: a field that the type does not have
  latest?.item;
  // @ts-expect-error: a status that there is not
  status === "over";
  // @ts-expect-error: a snapshot is never changed
  data.push({ current: 1, total: 2 });
  void [done, all];
});

for await (const value of source) value.total.toFixed();
for await (const { offset, data } of source.records()) void (offset + data.current);

gateway.run<{ items: string[] }, number>("run_1", { skip: ["metadata"] }).subscribe(({ run }) => {
  const output: number | null | undefined = run?.output;
  void [output, run?.payload?.items[0]];
});
gateway.runs({ tag: "user_7" }, { limit: 10 }).subscribe(({ runs, hasMore, loadMore }) => {
  if (hasMore && runs[0]?.is_failed) loadMore();
});
gateway.streams("run_1").subscribe(({ streams }) => void streams["answer"]?.text);
// @ts-expect-error: a set has one name
gateway.runs({ user: "user_7" });

gateway.stream("run_1", "answer", { parts: true }).subscribe(({ parts, partsBySource }) => {
  const text: string = parts.text + (parts.tool_calls[0]?.input_text ?? "");
  // @ts-expect-error: a state that there is not
  parts.tool_calls[0]?.state === "over";
  void [text, partsBySource[0]?.parts.finish?.reason];
});
const approval = gateway.input<{ ok: boolean }>("run_1", "approval");
approval.subscribe(({ isPending, count, error }) => void [isPending, count, error?.code]);
await approval.send({ ok: true });
// @ts-expect-error: a value of another type
approval.send("yes");
const census = gateway.task<{ items: string[] }>("census");
await census.trigger({ items: [] });
const run: string | undefined = census.snapshot.handle?.id;
const { status, output } = await gateway.cancel<unknown, number>("run_1");
void [run, status === "canceled", output?.toFixed()];

try {
  const { offset } = await gateway.append("run_1", "approval", { ok: true });
  const { id, access_token } = await gateway.trigger("census", { items: [] });
  void [offset, id, access_token];
} catch (error) {
  if (error instanceof RealtimeError) console.log(error.code, error.message);
}
