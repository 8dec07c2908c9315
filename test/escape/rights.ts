/** Checks 37 to 46: capabilities, system calls, labels. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { StartRecord } from '../../host/base/channels.ts';
import { appArmorProfile } from '../../host/security/labels.ts';
import type { RunResult } from '../functions/probe/handler.ts';
import { uidBaseOf, type Probe } from '../support/containers.ts';
import type { TestHost } from '../support/host.ts';
import { assertAllowedCalls, assertForeignCallsKill } from '../support/system-calls.ts';
import {
  asUser,
  assertRefused,
  callsInside,
  callsOutside,
  outside,
  type Call,
  type Check,
} from './check.ts';
import { readLabel } from './labels.ts';

const sets = ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'] as const;
const none = '0000000000000000';
const families = { unix: 1, inet: 2, inet6: 10, netlink: 16, packet: 17, alg: 38 } as const;
const familiesMax = 46;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
/** <linux/prctl.h> */
const PR_GET_SECUREBITS = 27;
const PR_SET_SECUREBITS = 28;
const PR_SET_DUMPABLE = 4;
const PR_CAP_AMBIENT = 47;
const PR_CAP_AMBIENT_CLEAR_ALL = 4;
/** NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, with their locks, and KEEP_CAPS locked. */
const securebits = 0b11101111;
/** setpriv(1), which a booted one is started by, has no word for them; its sets are empty. */
const ambientBits = 0b11000000;

export const rightsChecks: readonly Check[] = [
  {
    number: 37,
    what: 'no capability in any set: PID 1, the function, and what it executes',
    async run({ probe }) {
      for (const status of await statusesOf(probe))
        for (const set of sets) assert.equal(fieldOf(status, set), none, set);
      assert.notEqual(fieldOf(readFileSync('/proc/self/status', 'utf8'), 'CapEff'), none);
    },
  },
  {
    number: 38,
    what: 'no_new_privs and filters are in force; su and a raw ping fail',
    async run({ probe, path }) {
      for (const status of await statusesOf(probe)) {
        assert.equal(fieldOf(status, 'NoNewPrivs'), '1');
        assert.equal(fieldOf(status, 'Seccomp'), '2');
        // The profile and what seals the start; forked ones had what makes V8's pages forkable.
        const filters = Number(fieldOf(status, 'Seccomp_filters'));
        assert.equal(filters, path === 'booted' ? 2 : 3);
      }
      for (const command of [
        ['su', '-c', 'id'],
        ['ping', '-c', '1', '127.0.0.1'],
      ]) {
        const result = await probe.ask<RunResult>({ do: 'run', command });
        assert.notEqual(result.status, 0, command.join(' '));
      }
      assert.equal(fieldOf(readFileSync('/proc/self/status', 'utf8'), 'Seccomp'), '0');
    },
  },
  {
    number: 39,
    what: 'of all system calls those of the profile are allowed, no others',
    run: ({ probe }) => assertAllowedCalls(probe),
  },
  {
    number: 40,
    what: 'of all address families only local, internet, and the route list of netlink',
    async run({ probe, program }) {
      const all = Array.from({ length: familiesMax + 1 }, (_, family) => family);
      const types = [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW];
      const calls = all.flatMap((family) => types.map((type): Call => ['socket', family, type, 0]));
      const netlinks = Array.from({ length: 22 }, (_, protocol): Call => {
        return ['socket', families.netlink, SOCK_RAW, protocol];
      });
      const inside = await callsInside(probe, [...calls, ...netlinks]);
      const open = Object.keys(inside).filter((call) => inside[call] === 'ok');
      const { unix, inet, inet6, netlink } = families;
      const expected = [unix, inet, inet6].flatMap((family) => [
        `socket(${family}, ${SOCK_STREAM}, 0)`,
        `socket(${family}, ${SOCK_DGRAM}, 0)`,
      ]);
      const route = [SOCK_DGRAM, SOCK_RAW].map((type) => `socket(${netlink}, ${type}, 0)`);
      assert.deepEqual(open.toSorted(), [...expected, ...route].toSorted());
      const without = callsOutside(program, [
        ['socket', families.packet, SOCK_RAW, 0],
        ['socket', inet, SOCK_RAW, 1],
        ['socket', netlink, SOCK_RAW, 6],
      ]);
      assert.ok(Object.values(without).includes('ok'), JSON.stringify(without));
    },
  },
  {
    number: 41,
    what: 'calls of another architecture end the process: socketcall by int 0x80, x32',
    run: ({ probe }) => assertForeignCallsKill(probe),
  },
  {
    number: 42,
    what: 'no other personality, no typing into terminals, no vmsplice, no LDT',
    run: (subject) =>
      assertRefused(subject, [
        ['personality', 0x4_0000],
        ['personality', 0x40_0000],
        ['ioctl', 0, 0x5412, 1],
        ['ioctl', 0, 0x541c, 1],
        ['vmsplice', -1, 1, 1, 0],
        ['modify_ldt', 1, 1, 16],
        ['keyctl', 0, -3, 0],
        ['iopl', 0],
        ['ioperm', 0x70000, 1, 1],
      ]),
  },
  {
    number: 43,
    what: 'filters stay over fork and exec, and cannot be relaxed',
    async run(subject) {
      const script = 'sh -c "exec sh -c \\"cat /proc/self/status\\""';
      const command = ['sh', '-c', script];
      const { stdout } = await subject.probe.ask<RunResult>({ do: 'run', command });
      const own = await subject.probe.ask<string>({ do: 'read', path: '/proc/self/status' });
      assert.equal(fieldOf(stdout, 'Seccomp_filters'), fieldOf(own, 'Seccomp_filters'));
      await assertRefused(subject, [
        ['seccomp', 1, 0, 1],
        ['prctl', 22, 2, 1],
      ]);
      const SECCOMP_MODE_STRICT = 1;
      const [strict] = Object.values(
        await callsInside(subject.probe, [['prctl', 22, SECCOMP_MODE_STRICT]]),
      );
      assert.equal(strict, 'EPERM');
    },
  },
  {
    number: 44,
    what: 'of labels and rules, each is in force or said to be unavailable',
    async run({ probe, host }) {
      const { isolation } = await latestStart(host, probe.name);
      for (const [layer, state] of Object.entries(isolation))
        assert.match(state, /^(enforced|unavailable: .+)$/, layer);
      assert.equal(isolation.seccomp, 'enforced');
      const command = ['sh', '-c', 'cat /proc/self/attr/current 2>/dev/null'];
      const executed = (await probe.ask<RunResult>({ do: 'run', command })).stdout.trim();
      const labels = [readLabel(probe.initPid), readLabel(probe.functionPid), executed];
      for (const label of labels)
        if (isolation.apparmor === 'enforced') assert.equal(label, `${appArmorProfile} (enforce)`);
        else if (isolation.selinux === 'enforced') assert.match(label, /:/);
        else assert.doesNotMatch(label, /hatch/);
      assert.doesNotMatch(readLabel('self'), /hatch/);
      const { reply } = await host.client.askAny('doctor', {});
      for (const layer of ['landlock', 'landlock-ports', 'apparmor', 'selinux'] as const) {
        const line = reply.checks.find(({ name }) => name === `layer ${layer}`);
        assert.ok(line?.detail.startsWith(isolation[layer]), layer);
      }
    },
  },
  {
    number: 45,
    what: 'securebits are locked, no capability can be raised or set',
    async run(subject) {
      await assertRefused(
        subject,
        [
          ['prctl', PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL],
          ['prctl', PR_SET_SECUREBITS, 0],
          ['capset', 1, 1],
        ],
        ['EPERM'],
      );
      const [bits] = Object.values(
        await callsInside(subject.probe, [['prctl', PR_GET_SECUREBITS]]),
      );
      assert.equal(bits, 'ok');
      const { program, probe } = subject;
      const attempts = 'raise-capabilities';
      assert.equal(await probe.run(attempts), 'EPERM EPERM EPERM EPERM EPERM');
      // A process of this user outside the filter can't either: the sets that it could raise from
      // are empty. Root of the host sets what it likes.
      const dropped = asUser(uidBaseOf(probe.functionPid), [program, attempts]).stdout;
      assert.match(dropped, /^EPERM EPERM EPERM EPERM /);
      assert.match(outside([program, attempts]).stdout, /ok/);
      const expected = subject.path === 'booted' ? securebits & ~ambientBits : securebits;
      assert.equal(await subject.probe.run('securebits'), String(expected));
    },
  },
  {
    number: 46,
    what: 'its memory is closed to others of its user id, and it cannot open it to them',
    async run(subject) {
      const { probe } = subject;
      await assertRefused(subject, [['prctl', PR_SET_DUMPABLE, 1]]);
      const uid = uidBaseOf(probe.functionPid) + 1000;
      for (const pid of [probe.functionPid, probe.initPid])
        for (const file of ['mem', 'maps', 'environ', 'fd/1'])
          assert.notEqual(asUser(uid, ['head', '-c', '1', `/proc/${pid}/${file}`]).status, 0, file);
      const plain = spawn('setpriv', [
        `--reuid=${uid}`,
        `--regid=${uid}`,
        '--clear-groups',
        'sleep',
        '60',
      ]);
      try {
        const readable = () => asUser(uid, ['cat', `/proc/${plain.pid}/environ`]).status === 0;
        for (let tries = 0; !readable() && tries < 50; tries++) await new Promise(setImmediate);
        assert.ok(readable());
      } finally {
        plain.kill('SIGKILL');
      }
    },
  },
];

/** As the trace of a call has it that started an instance. */
async function latestStart(host: TestHost, name: string): Promise<StartRecord> {
  const { startRecord } = await host.deploy('test/functions/probe', { name: `${name}-again` });
  return startRecord;
}

async function statusesOf(probe: Probe): Promise<string[]> {
  const read = (path: string) => probe.ask<string>({ do: 'read', path });
  const command = ['cat', '/proc/self/status'];
  return [
    await read('/proc/1/status'),
    await read('/proc/self/status'),
    (await probe.ask<RunResult>({ do: 'run', command })).stdout,
  ];
}

function fieldOf(status: string, name: string): string | undefined {
  return new RegExp(`^${name}:\\t(.*)$`, 'm').exec(status)?.[1];
}
