export default {
  test: {
    include: ["suite.test.js"],
    // The package imports vitest itself; it has to be the one that runs it.
    server: { deps: { inline: [/@durable-streams\/server-conformance-tests/] } },
    // Some take all the time that they give themselves, 30 s, and one compares 100 KB byte by byte: on
    // a busy machine that is no fault of the gateway's. What hangs is ended with the whole run.
    testTimeout: 120_000,
  },
}
