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

try {
  const { offset } = await gateway.append("run_1", "approval", { ok: true });
  const { id, access_token } = await gateway.trigger("census", { items: [] });
  void [offset, id, access_token];
} catch (error) {
  if (error instanceof RealtimeError) console.log(error.code, error.message);
}
