/** Checks 64 to 69, of functions with `"network": "none"`, the default. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { View } from '../functions/probe/handler.ts';
import { enter } from '../support/containers.ts';
import { assertRefused, callsInside, outside, type Check } from './check.ts';

const containerRoot = ['--user', '--net', '--mount', '--pid', '--setuid', '0', '--setgid', '0'];
const refused = /^(ENETUNREACH|EHOSTUNREACH|EADDRNOTAVAIL|EINVAL)$/;
const familyInet = 2;
const SOCK_RAW = 3;

export const networkChecks: readonly Check[] = [
  {
    number: 64,
    what: 'neither the host, nor a sibling, nor a metadata address can be reached',
    async run({ probe, sibling }) {
      const server = createServer((socket) => socket.on('error', () => undefined).end('host'));
      await once(server.listen(0, '::'), 'listening');
      const address = server.address();
      assert.ok(address !== null && typeof address === 'object');
      const { port } = address;
      try {
        await sibling.ask({ do: 'listen', port: 7064, greeting: 'sibling' });
        const own = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
        const outer = own.filter(({ internal }) => !internal).map((each) => each.address);
        const metadata = ['169.254.169.254', 'fd00:ec2::254', '10.10.0.1', '8.8.8.8'];
        const targets = [...outer, ...metadata].map((host) => ({ host, port }));
        for (const answer of await probe.evaluate(connectAll, targets))
          assert.match(answer, refused);
        const loopback = ['127.0.0.1', '::1'].map((host) => ({ host, port }));
        for (const answer of await probe.evaluate(connectAll, loopback))
          assert.equal(answer, 'ECONNREFUSED');
        const [siblings] = await probe.evaluate(connectAll, [{ host: '127.0.0.1', port: 7064 }]);
        assert.equal(siblings, 'ECONNREFUSED');
        const here = [...loopback, ...targets.slice(0, outer.length)];
        assert.ok((await connectAll(here.slice(0, 1))).includes('connected'));
        assert.equal(
          (await sibling.evaluate(connectAll, [{ host: '127.0.0.1', port: 7064 }]))[0],
          'connected',
        );
      } finally {
        server.close();
      }
    },
  },
  {
    number: 65,
    what: 'no name is resolved, no packet is forged, no address is changed',
    async run(subject) {
      const { probe } = subject;
      const code = await probe.evaluate(async () => {
        const dns = process.getBuiltinModule('node:dns/promises');
        return dns
          .resolve4('example.com')
          .then(String, (error: NodeJS.ErrnoException) => error.code);
      });
      assert.match(String(code), /^(ECONNREFUSED|EREFUSED|ETIMEOUT|ENOTFOUND|ESERVFAIL)$/);
      await assertRefused(subject, [
        ['socket', familyInet, SOCK_RAW, 1],
        ['socket', familyInet, SOCK_RAW, 255],
        ['socket', 17, SOCK_RAW, 0x300],
        ['ioctl', 0, 0x8924, 1],
        ['ioctl', 0, 0x8914, 1],
      ]);
      for (const command of [
        ['ip', 'link', 'set', 'lo', 'down'],
        ['ip', 'addr', 'add', '10.0.0.1/8', 'dev', 'lo'],
        ['ifconfig', 'lo', 'down'],
      ])
        assert.notEqual(enter(probe.functionPid, containerRoot, ['busybox', ...command]).status, 0);
      assert.equal(outside(['ip', 'link', 'set', 'lo', 'up']).status, 0);
    },
  },
  {
    number: 66,
    what: 'no packet with a forged source leaves, and none comes in unasked',
    cannotApply: 'without egress there is no interface that one could cross',
    run: ({ probe }) => assertLoopbackOnly(probe.functionPid),
  },
  {
    number: 67,
    what: 'forwarding is denied before the first interface is there',
    cannotApply: 'without egress there never is an interface',
    run: ({ probe }) => assertLoopbackOnly(probe.functionPid),
  },
  {
    number: 68,
    what: 'forwarding, rules and links cannot be changed, and no network is used twice',
    async run({ probe, start }) {
      const inside = await probe.ask<View>({ do: 'view' });
      for (const path of ['/proc/sys/net/ipv4/ip_forward', '/proc/sys/net/ipv4/conf/all/rp_filter'])
        await assert.rejects(probe.ask({ do: 'write', path, text: '1' }), /EROFS|EACCES|ENOENT/);
      const [netfilter] = Object.values(await callsInside(probe, [['socket', 16, SOCK_RAW, 12]]));
      assert.equal(netfilter, 'EPERM');
      const link = ['ip', 'link', 'add', 'hatch0', 'type', 'dummy'];
      assert.notEqual(enter(probe.functionPid, containerRoot, ['busybox', ...link]).status, 0);
      const networks = new Set([inside.namespaces['net']]);
      for (let at = 0; at < 3; at++) {
        const next = await start({ reuse: 'never' });
        networks.add(readlinkSync(`/proc/${next.functionPid}/ns/net`));
      }
      assert.equal(networks.size, 4);
      assert.equal(outside(['sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward']).status, 0);
    },
  },
  {
    number: 69,
    what: 'no published port is mapped to a wrong address',
    cannotApply: 'functions publish no ports: the manifest refuses the word',
    async run({ host }) {
      const ports = ['80:80'];
      await assert.rejects(host.deploy('test/functions/probe', { name: 'ports', ports }), {
        code: 'deploy.invalid',
      });
    },
  },
];

async function connectAll(targets: { host: string; port: number }[]): Promise<string[]> {
  const { connect } = process.getBuiltinModule('node:net');
  return Promise.all(
    targets.map(
      (target) =>
        new Promise<string>((resolve) => {
          const socket = connect({ ...target, timeout: 3000 });
          socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
          socket.once('timeout', () => resolve('timeout'));
          socket.once('connect', () => resolve('connected'));
          socket.once('close', () => socket.destroy());
          socket.resume();
        }),
    ),
  );
}

function assertLoopbackOnly(pid: number): Promise<void> {
  const names = (of: number | 'self') =>
    readFileSync(`/proc/${of}/net/dev`, 'utf8')
      .trim()
      .split('\n')
      .slice(2)
      .map((line) => line.split(':')[0]?.trim());
  assert.deepEqual(names(pid), ['lo']);
  assert.match(readFileSync(`/proc/${pid}/net/route`, 'utf8').trim(), /^Iface[^\n]*$/);
  assert.ok(names('self').includes('lo'));
  return Promise.resolve();
}
