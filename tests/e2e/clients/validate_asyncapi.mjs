// Prints what AsyncAPI's own parser has against a document; nothing if it is valid.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
for (const { severity, path, message } of diagnostics) {
  if (severity <= 1) console.log(path.join("."), message);
}
if (document === undefined) process.exitCode = 1;
