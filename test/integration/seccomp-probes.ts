/** Makes forbidden calls, and prints the errno of each as JSON: 0 where a call succeeded. */
import { trySyscall } from '../../host/sys/libc.ts';

const call = trySyscall<[number, number, number, number, number]>(
  'long syscall(long number, long a, long b, long c, long d)',
);
/** x64 numbers with arguments that would be harmless, were they let through. */
const probes: Record<string, [number, number, number, number]> = JSON.parse(
  process.argv[3] ?? '{}',
) as Record<string, [number, number, number, number]>;

const results = Object.entries(probes).map(([name, [number, a, b, c]]) => {
  const result = call(number, a, b, c, 0);
  return [name, result < 0 ? -result : 0];
});
console.log(JSON.stringify(Object.fromEntries(results)));
