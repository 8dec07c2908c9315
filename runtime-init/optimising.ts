/**
 * V8 compiles anew what runs often. A process on its way to be a container runs the rest of its
 * start once, with counters that the zygote has brought close to their limits: a compilation that
 * falls due there holds it up by a quarter of a millisecond, and leaves 0.2 MB of memory of its own
 * behind.
 */
import { setFlagsFromString } from 'node:v8';

const compilers = ['sparkplug', 'maglev', 'turbofan'];

/** In the zygote, for all its children; PID 1, which only waits, never takes it up again. */
export function stopOptimising(): void {
  for (const compiler of compilers) setFlagsFromString(`--no-${compiler}`);
}

/** In a function's process, when the function comes. */
export function resumeOptimising(): void {
  for (const compiler of compilers) setFlagsFromString(`--${compiler}`);
}
