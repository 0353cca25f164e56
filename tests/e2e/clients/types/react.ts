// Compiled, never run: the hooks with React's own types.
import * as React from "react";
import { connect, createHooks } from "./client.js";

const { useInputStream, useRealtimeRun, useRealtimeStream, useTaskTrigger } = createHooks(React);
const gateway = connect();

export function Progress({ run }: { run: string | null }) {
  const { latest, status } = useRealtimeStream<{ current: number }>(gateway, run, "progress", {
    onRecord: (value) => value.current.toFixed(),
  });
  const { run: shown } = useRealtimeRun<unknown, number>(gateway, run);
  // @ts-expect-error: no such field
  latest?.item;
  return React.createElement("p", null, status, latest?.current, shown?.output?.toFixed());
}

export function Ask({ run }: { run: string | null }) {
  const { send, isPending, error } = useInputStream<{ ok: boolean }>(gateway, run, "approval");
  const { trigger, handle } = useTaskTrigger<{ question: string }>(gateway, "ask");
  const onClick = () => (run === null ? trigger({ question: "?" }) : send({ ok: true }));
  return React.createElement("button", { onClick }, isPending, error?.message, handle?.id);
}
