/** Landlock: a process gives up access for good, whatever rights it has (landlock(7)). */
import { closeSync } from 'node:fs';
import { numberedSyscall } from './libc.ts';
import { callNumber } from './numbers.ts';

// <linux/landlock.h>
const LANDLOCK_RULE_PATH_BENEATH = 1;

/** The first ABI with rules for ports: Linux 6.7. */
export const portRulesAbi = 4;

/** By the bits of LANDLOCK_ACCESS_FS_*. */
const rights = {
  execute: 1n << 0n,
  writeFile: 1n << 1n,
  readFile: 1n << 2n,
  readDirectory: 1n << 3n,
  makeCharacterDevice: 1n << 6n,
  makeBlockDevice: 1n << 11n,
} as const;
/** The highest bit that an ABI knows, from the first that lets files be moved at all. */
const highestRight: readonly [abi: number, bit: number][] = [
  [5, 15],
  [3, 14],
  [2, 13],
];

/** struct landlock_path_beneath_attr, which is packed */
export const pathBeneathLayout = { size: 12, allowedAccess: 0, parentFd: 8 } as const;

/**
 * LANDLOCK_RULE_NET_PORT, LANDLOCK_ACCESS_NET_CONNECT_TCP and struct landlock_net_port_attr. The C
 * compiler of Debian 12 does not know them: that the kernel does is seen in
 * test/conformance/7-network.ts.
 */
const netPort = { rule: 2, connectTcp: 1n << 1n, size: 16, allowedAccess: 0, port: 8 } as const;

/** struct landlock_ruleset_attr, with and without what is handled of the network */
const rulesetLayout = { handledFiles: 0, handledNetwork: 8, size: 16, sizeBefore: 8 } as const;

const createRuleset = numberedSyscall<[Uint8Array, number, number]>({
  name: 'landlock_create_ruleset',
  number: callNumber.landlock_create_ruleset,
  parameters: 'const uint8_t *attr, size_t size, unsigned int flags',
});
const addRule = numberedSyscall<[number, number, Uint8Array, number]>({
  name: 'landlock_add_rule',
  number: callNumber.landlock_add_rule,
  parameters: 'int ruleset, int type, const uint8_t *attr, unsigned int flags',
});
const restrictSelf = numberedSyscall<[number, number]>({
  name: 'landlock_restrict_self',
  number: callNumber.landlock_restrict_self,
  parameters: 'int ruleset, unsigned int flags',
});

/** What may be done below a directory. */
export const fileAccess = {
  read: rights.execute | rights.readFile | rights.readDirectory,
  /** Devices and pipes that are there may be written to. */
  use: rights.writeFile,
  /** All but making devices. */
  change: ~(rights.makeCharacterDevice | rights.makeBlockDevice),
} as const;

export interface FileRule {
  /** A directory, or its descriptor of any kind; it stays the caller's. */
  directoryFd: number;
  access: bigint;
}

export interface Rules {
  files: readonly FileRule[];
  /** Undefined: all. Needs `portRulesAbi`; before, it is not looked at. */
  connectTcpPorts: readonly number[] | undefined;
}

/**
 * What is beneath none of the directories is out of reach, and ports that are not listed are, at
 * any address. Close-on-exec; `abi` is from 2.
 */
export function makeRuleset(abi: number, { files, connectTcpPorts }: Rules): number {
  const highest = highestRight.find(([from]) => abi >= from)?.[1];
  if (highest === undefined) throw new RangeError(`Landlock ABI ${abi} cannot move files`);
  const ports = abi >= portRulesAbi ? connectTcpPorts : undefined;
  const handled = (1n << BigInt(highest + 1)) - 1n;
  const attributes = Buffer.alloc(
    ports === undefined ? rulesetLayout.sizeBefore : rulesetLayout.size,
  );
  attributes.writeBigUInt64LE(handled, rulesetLayout.handledFiles);
  if (ports !== undefined)
    attributes.writeBigUInt64LE(netPort.connectTcp, rulesetLayout.handledNetwork);
  const ruleset = createRuleset(attributes, attributes.length, 0);
  try {
    for (const { directoryFd, access } of files) {
      const rule = Buffer.alloc(pathBeneathLayout.size);
      rule.writeBigUInt64LE(access & handled, pathBeneathLayout.allowedAccess);
      rule.writeInt32LE(directoryFd, pathBeneathLayout.parentFd);
      addRule(ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0);
    }
    for (const port of ports ?? []) {
      const rule = Buffer.alloc(netPort.size);
      rule.writeBigUInt64LE(netPort.connectTcp, netPort.allowedAccess);
      rule.writeBigUInt64LE(BigInt(port), netPort.port);
      addRule(ruleset, netPort.rule, rule, 0);
    }
    return ruleset;
  } catch (error) {
    closeSync(ruleset);
    throw error;
  }
}

/** Puts the calling thread, and what it starts, under the rules for good; closes them. */
export function enterRuleset(ruleset: number): void {
  restrictSelf(ruleset, 0);
  closeSync(ruleset);
}
