// `npm run build`: writes what the page shows about its own build. Runs once for each deploy, before
// the app starts.
import { mkdir, writeFile } from "node:fs/promises";

await mkdir("build", { recursive: true });
const built = { at: new Date().toISOString(), node: process.version };
await writeFile("build/info.json", JSON.stringify(built) + "\n");
console.log(`built with Node ${built.node}`);
