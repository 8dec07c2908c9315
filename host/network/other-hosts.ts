/**
 * Hosts beside this one in a network namespace, each with a bridge of its own. Forwarding is
 * switched on by the first of them and off by the last, so each notes what was before the first:
 * where its note is, its bridge says, also when it was killed.
 */
import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { HatchError, messageOf } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import { Netlink } from '../sys/netlink.ts';
import { bridgeAliases } from '../sys/rtnetlink.ts';
import { readTraces, settingsNow, type Traces } from './traces.ts';

const aliasPrefix = 'hatch, see ';
/** Of an alias, in bytes (IFALIASZ in <linux/if.h>). */
const aliasMax = 255;
/** Another host sets its network up meanwhile, or takes it down. */
const waitMsMax = 10_000;
const pollMs = 20;

/** Held until it is closed, at the latest when this process ends. */
export async function lockNetworks(): Promise<Server> {
  const deadline = performance.now() + waitMsMax;
  for (;;) {
    const lock = await tryLock('hatch-networks');
    if (lock !== undefined) return lock;
    if (performance.now() > deadline)
      throw new Error(`Another host has been changing its network for ${waitMsMax / 1000} s`);
    await sleep(pollMs);
  }
}

/** Held as long as the bridge is: two hosts need two bridges. */
export async function lockBridge(bridge: string): Promise<Server> {
  const lock = await tryLock(`hatch-network-${bridge}`);
  if (lock !== undefined) return lock;
  const keys = 'networkBridge, networkIpv4, networkIpv6';
  const message = `Bridge "${bridge}" is another host's: give this one its own ${keys}`;
  throw new HatchError('host.config_invalid', message);
}

/** What a bridge says of its host's note. */
export function aliasOf(tracesFile: string): string {
  const alias = aliasPrefix + tracesFile;
  if (Buffer.byteLength(alias) <= aliasMax) return alias;
  const message = `"${tracesFile}" is too long for a bridge's alias: shorten stateDirectory`;
  throw new HatchError('host.config_invalid', message);
}

/** Those of running hosts, and of hosts that were killed, but not this one. */
export function otherBridges(own: string): Map<string, string> {
  const netlink = new Netlink('route');
  try {
    const found = [...bridgeAliases(netlink)];
    return new Map(found.filter(([name, alias]) => name !== own && alias.startsWith(aliasPrefix)));
  } finally {
    netlink.close();
  }
}

/** What has to change for the machine to forward, and what it was before any host changed it. */
export function settingsBefore(own: string): Traces['settings'] {
  const [other] = otherBridges(own);
  if (other === undefined) return settingsNow();
  const [bridge, alias] = other;
  return tracesOf(bridge, alias.slice(aliasPrefix.length)).settings;
}

function tracesOf(bridge: string, file: string): Traces {
  let cause: unknown;
  try {
    const traces = readTraces(file);
    if (traces !== undefined) return traces;
  } catch (error) {
    cause = error;
  }
  const reason = cause === undefined ? 'is not there' : `cannot be read (${messageOf(cause)})`;
  const advice = `where its host is gone for good, end it by "ip link delete ${bridge}"`;
  const message = `The note "${file}" of bridge "${bridge}" ${reason}: ${advice}`;
  throw new HatchError('host.config_invalid', message, { cause });
}

/** Of this network namespace; the kernel lets go of it with the process. */
async function tryLock(name: string): Promise<Server | undefined> {
  const lock = createServer((socket) => socket.destroy());
  lock.listen(`\0${name}`).unref();
  try {
    await once(lock, 'listening');
    return lock;
  } catch (error) {
    if (isErrno(error, 'EADDRINUSE')) return undefined;
    throw error;
  }
}
