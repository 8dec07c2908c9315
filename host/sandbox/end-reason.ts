/** Why a container ended, as its calls are told. */
import { HatchError } from '../base/errors.ts';
import type { Cgroup } from '../cgroup/cgroup.ts';
import type { FunctionExit } from './init-channel.ts';

/** `exit` is what PID 1 said, if it could; `limitBytes` is what the function was allowed. */
export function endReason(
  exit: FunctionExit | undefined,
  cgroup: Pick<Cgroup, 'oomKills' | 'usage'>,
  limitBytes: number,
): HatchError {
  const details = { exitCode: exit?.exitCode, signal: exit?.signal };
  const { count: oomKills, scope } = cgroup.oomKills();
  if (oomKills > 0) {
    const peakBytes = cgroup.usage().memoryPeakBytes;
    const message =
      scope === 'cgroup'
        ? `Function used more than its ${Math.round(limitBytes / 2 ** 20)} MiB of memory`
        : 'Function was killed: the host ran out of memory, the function did not';
    return new HatchError('function.oom', message, {
      details: { ...details, scope, limitBytes, peakBytes },
    });
  }
  const how =
    exit === undefined
      ? 'was killed'
      : exit.signal === undefined
        ? `exited with status ${exit.exitCode}`
        : `was ended by signal ${exit.signal}`;
  return new HatchError('function.exited', `Function ${how}`, { details });
}
