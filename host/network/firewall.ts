/** Which firewall driver a host uses. */
import { HatchError } from '../base/errors.ts';
import { runProgram } from './command.ts';
import type { FirewallDriver, FirewallOptions } from './firewall-driver.ts';
import { IptablesDriver } from './iptables.ts';
import { NftablesDriver } from './nftables.ts';

export function driverOf(name: FirewallDriver['name'], options: FirewallOptions): FirewallDriver {
  return name === 'nftables' ? new NftablesDriver(options) : new IptablesDriver(options);
}

/**
 * By itself: nftables, but iptables where its rules drop what they do not know, as Docker's do: a
 * table of ours cannot let a packet through that another one drops.
 */
export async function chooseDriver(
  wanted: 'auto' | FirewallDriver['name'],
): Promise<FirewallDriver['name']> {
  if (wanted !== 'auto') return wanted;
  const rules = await Promise.all(
    ['iptables-save', 'ip6tables-save'].map((program) =>
      runProgram([program, '-t', 'filter']).catch(() => undefined),
    ),
  );
  if (rules.some((text) => text?.includes(':FORWARD DROP') === true)) return 'iptables';
  if (await isThere('nft')) return 'nftables';
  if (rules.every((text) => text !== undefined)) return 'iptables';
  throw new HatchError('host.unsupported', 'No firewall: install nftables or iptables');
}

async function isThere(program: string): Promise<boolean> {
  return runProgram([program, '--version']).then(
    () => true,
    () => false,
  );
}
