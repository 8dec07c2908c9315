/** Names for what this host makes: short, unique, safe in paths, host names and NATS subjects. */
import { randomBytes } from 'node:crypto';

const run = randomBytes(3).toString('hex');
let sequence = 0;

/** Such as `i-3f9a0c-12`: the middle part is drawn anew for each run of the host. */
export function makeId(prefix: string): string {
  return `${prefix}-${run}-${(sequence++).toString(36)}`;
}
