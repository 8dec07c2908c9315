/**
 * V8 compiles anew what runs often. A process on its way to be a container runs the rest of its
 * start once, with counters that the zygote has brought close to their limits: a compilation that
 * falls due there holds it up by a quarter of a millisecond. After it PID 1 only waits.
 */
import { setFlagsFromString } from 'node:v8';

const compilers = ['sparkplug', 'maglev', 'turbofan'];

export function stopOptimising(): void {
  for (const compiler of compilers) setFlagsFromString(`--no-${compiler}`);
}
