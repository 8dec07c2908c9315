/**
 * What runs inside: bundled into one file, it is the zygote, PID 1 of every container, and the
 * function process. Which of them is said by the first argument.
 */
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
  process.stderr.write(`runtime-init ${mode}: ${String(error)}\n`);
  process.exit(1);
});
