/**
 * What runs inside: bundled into one file, it is the zygote, PID 1 of every container, and the
 * function process. Which of them is said by the first argument.
 */
import './compile-lazily.ts';
import { writeSync } from 'node:fs';
import { bootFunction, bootInit } from './boot.ts';
import { runZygote } from './zygote.ts';

const modes: Record<string, () => void | Promise<void>> = {
  zygote: runZygote,
  'boot-init': bootInit,
  'boot-function': bootFunction,
};

const mode = process.argv[2] ?? '';
const run = modes[mode];
if (run === undefined) {
  process.stderr.write(`runtime-init: unknown mode "${mode}"\n`);
  process.exit(2);
}
Promise.resolve(run()).catch((error: unknown) => {
  // Not by way of `process.stderr`: in a zygote that has warmed up it leads nowhere.
  writeSync(2, `runtime-init ${mode}: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
});
