/**
 * A network for tests, in namespaces of its own: this process becomes the "host" of it, with test
 * hosts beside it that an instance may or may not reach. Nothing of the machine is touched, and all
 * of it is gone with the descriptors, at the latest with this process.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { setNames } from '../../host/sys/ip-set.ts';
import {
  bringLoopbackUp,
  namespaceFlag,
  openOwnNamespace,
  unshare,
} from '../../host/sys/namespace.ts';
import { Netlink } from '../../host/sys/netlink.ts';
import { makeNetworkNamespace } from '../../runtime-init/network-namespace.ts';
import { waitFor } from './host-processes.ts';
import { slowness } from './slowness.ts';

/** The host's address on the link to the test host, and the test host's own. */
export const outside = {
  host4: '192.0.2.1',
  host6: '2001:db8:1::1',
  ipv4: '192.0.2.2',
  ipv6: '2001:db8:1::2',
  /** Where clouds have their metadata services: the test host has these, too. */
  metadata4: '169.254.169.254',
  metadata6: 'fd00:ec2::254',
} as const;

/** A program starts in it, too, which takes longer in an emulated machine. */
const reachMs = 1000 * Math.min(slowness, 2);
const serverStartMs = 10_000;
let hasLeft = false;

/** From here on this thread and all that it starts are in a namespace with a loopback only. */
export function leaveMachineNetwork(): void {
  unshare(namespaceFlag.network);
  hasLeft = true;
  bringLoopbackUp();
}

/**
 * Fails unless all that a host has made in the namespace of this process is gone again: links with
 * their addresses, rules, sets, settings. The kernel removes links of namespaces in the background.
 */
export async function assertNetworkUntouched(): Promise<void> {
  const show = 'nft list ruleset; iptables-save; ip6tables-save; ip -o link; ip route';
  const left = (): string =>
    execFileSync('bash', ['-ec', show], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => /hatch/.test(line))
      .join('\n');
  await waitFor('links are gone', () => left() === '').catch(() => assert.equal(left(), ''));
  const netlink = new Netlink('netfilter');
  assert.deepEqual(setNames(netlink), []);
  netlink.close();
  for (const setting of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'])
    assert.equal(readFileSync(`/proc/sys/net/${setting}`, 'utf8'), '0\n', setting);
}

export class TestNetwork {
  /** The namespace of this process. */
  readonly hostFd = openOwnNamespace('network');
  readonly #fds: number[] = [];
  readonly #servers: ChildProcess[] = [];
  /** The test host's namespace. */
  readonly outsideFd: number;

  /** Only in a namespace that `leaveMachineNetwork` has made. */
  constructor() {
    assert.ok(hasLeft, 'leaveMachineNetwork comes first');
    this.outsideFd = this.makeNamespace();
    this.run(`ip link add uplink type veth peer name eth0 netns ${this.pathOf(this.outsideFd)}`);
    this.run(`ip addr add ${outside.host4}/24 dev uplink; ip link set uplink up`);
    this.run(`ip -6 addr add ${outside.host6}/64 dev uplink nodad`);
    this.runIn(
      this.outsideFd,
      `ip addr add ${outside.ipv4}/24 dev eth0; ip addr add ${outside.metadata4}/32 dev eth0
       ip -6 addr add ${outside.ipv6}/64 dev eth0 nodad
       ip -6 addr add ${outside.metadata6}/128 dev eth0 nodad; ip link set eth0 up`,
    );
    // The machine's own ways to the metadata services.
    this.run(`ip route add ${outside.metadata4}/32 dev uplink`);
    this.run(`ip -6 route add ${outside.metadata6}/128 via ${outside.ipv6}`);
  }

  /** One with a loopback. */
  makeNamespace(): number {
    const fd = makeNetworkNamespace(this.hostFd);
    this.#fds.push(fd);
    return fd;
  }

  /** Of a namespace, for commands. */
  pathOf(fd: number): string {
    return `/proc/${process.pid}/fd/${fd}`;
  }

  run(script: string): string {
    return execFileSync('bash', ['-ec', script], { encoding: 'utf8' });
  }

  runIn(fd: number, script: string): string {
    const command = [`--net=${this.pathOf(fd)}`, 'bash', '-ec', script];
    return execFileSync('nsenter', command, { encoding: 'utf8' });
  }

  /** Whether a server's answer comes; what is dropped costs a second. */
  reaches(
    fd: number,
    target: { address: string; port: number; protocol?: 'tcp' | 'udp' },
  ): boolean {
    return this.ask(fd, target) !== undefined;
  }

  /** What the server at the other end sees as the source's address. */
  ask(
    fd: number,
    {
      address,
      port,
      protocol = 'tcp',
    }: { address: string; port: number; protocol?: 'tcp' | 'udp' },
  ): string | undefined {
    const script = `exec 3<>/dev/${protocol}/${address}/${port} && echo >&3 && head -n 1 <&3`;
    const args = [`--net=${this.pathOf(fd)}`, 'timeout', '-s', 'KILL', `${reachMs / 1000}`];
    const { status, stdout } = spawnSync('nsenter', [...args, 'bash', '-c', script], {
      encoding: 'utf8',
    });
    return status === 0 && stdout !== '' ? stdout.trim() : undefined;
  }

  /** Answers with the address that a question came from, by TCP and UDP, IPv4 and IPv6. */
  async serve(fd: number, ports: number[]): Promise<void> {
    const command = [
      `--net=${this.pathOf(fd)}`,
      process.execPath,
      '-e',
      server,
      ...ports.map(String),
    ];
    const child = spawn('nsenter', command, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#servers.push(child);
    let said = '';
    child.stdout.on('data', (text: Buffer) => (said += text.toString()));
    const deadline = performance.now() + serverStartMs;
    while (!said.includes('ready')) {
      if (performance.now() > deadline) throw new Error('The test server does not start');
      await sleep(10);
    }
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#servers.map(async (child) => {
        child.kill('SIGKILL');
        if (child.exitCode === null && child.signalCode === null)
          await new Promise((resolve) => child.once('close', resolve));
      }),
    );
    for (const fd of [...this.#fds, this.hostFd]) closeSync(fd);
    spawnSync('ip', ['link', 'delete', 'uplink']);
  }
}

const server = `
const { createServer } = require('node:net');
const { createSocket } = require('node:dgram');
const plain = (address) => address.replace('::ffff:', '') + '\\n';
let waiting = 0;
const ready = () => --waiting === 0 && console.log('ready');
for (const port of process.argv.slice(1).map(Number)) {
  waiting += 2;
  createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end(plain(socket.remoteAddress));
  }).listen(port, '::', ready);
  const udp = createSocket('udp6');
  udp.on('message', (_, { address, port }) => udp.send(plain(address), port, address));
  udp.bind(port, '::', ready);
}
`;
