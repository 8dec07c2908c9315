/**
 * `npm run test:vm -- [PATTERN]`: the tests on Debian's stock kernel, in a VM. PATTERN is a regular
 * expression on test file paths, as for `npm test`; without it, all. `--run COMMAND` runs a line of
 * shell there instead, as root in this repository; with `--systemd` as a unit of systemd, and with
 * `--zfs` on a kernel that has ZFS.
 */
import { parseArgs } from 'node:util';
import { runInVm, runTestsInVm } from './run.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    run: { type: 'string' },
    systemd: { type: 'boolean', default: false },
    zfs: { type: 'boolean' },
    'limit-minutes': { type: 'string', default: '80' },
  },
});
const init = values.systemd ? 'systemd' : 'script';
const options = {
  limitMs: Number(values['limit-minutes']) * 60_000,
  onOutput: (text: string): boolean => process.stdout.write(text),
  ...(values.zfs !== undefined && { zfs: values.zfs }),
};
try {
  process.exitCode =
    values.run === undefined
      ? await runTestsInVm({ ...options, pattern: positionals[0] ?? '.' })
      : await runInVm({ ...options, command: values.run, init });
} catch (error) {
  console.error(`vm: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
