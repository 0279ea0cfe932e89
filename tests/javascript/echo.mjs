// The smallest worker: what is sent comes back, and what can go wrong does.

import fs from "node:fs";
import { load, serve } from "../../qguard/javascript/scripts/protocol.mjs";

serve({
  echo: (values, arrays) => ({ ...values, arrays }),
  load: async ({ name }) => ({ ...(await load(name)).default }),
  sleep: () => new Promise(() => setTimeout(() => {}, 1e9)),
  spin: () => { for (;;); },
  print: () => (console.log("a package prints"), {}),
  garble: () => fs.writeSync(1, "a library prints to the pipe\n"),
  raise: () => { throw new RangeError("a text of 600 tokens\n is too long"); },
  die: () => { console.error("Error: out of memory\u001b[2J"); process.exit(3); },
});
