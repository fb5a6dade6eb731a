// `npm run build`: bundles src into page/app.js. Its first line says what it was made of, which a test compares.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { build } from "esbuild";

const inputs = ["package-lock.json", ...readdirSync("src").filter((name) => name.endsWith(".ts")).sort().map((name) => `src/${name}`)];
const hash = createHash("sha256");
for (const input of inputs) hash.update(readFileSync(input));

await build({
  entryPoints: ["src/main.ts"],
  outfile: "page/app.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  banner: { js: `/* Made by \`npm run build\` from src and package-lock.json, sha256 ${hash.digest("hex")}; @bufbuild/protobuf, @connectrpc: Apache-2.0 */` },
});
