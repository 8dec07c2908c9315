/** CLOCK_MONOTONIC in nanoseconds: one clock for all processes of a host, exact to 2^53 ns. */
export function nowNs(): number {
  return Number(process.hrtime.bigint());
}

export const nsPerMs = 1e6;
