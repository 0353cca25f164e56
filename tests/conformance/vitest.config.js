export default {
  test: {
    include: ["suite.test.js"],
    // The package imports vitest itself; it has to be the one that runs it.
    server: { deps: { inline: [/@durable-streams\/server-conformance-tests/] } },
    testTimeout: 30_000,
  },
}
