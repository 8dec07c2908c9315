/** What isolates a container on this host, layer by layer. Nothing is skipped without a word. */
import { HatchError } from '../base/errors.ts';
import {
  alwaysEnforced,
  isolationLayerNames,
  type AlwaysEnforced,
  type Isolation,
  type IsolationLayerName,
  type IsolationState,
} from '../base/isolation.ts';
import { landlockAbi } from '../sys/kernel-features.ts';
import { chooseLabel, type Labelling } from './labels.ts';
import { portRulesAbi } from '../sys/landlock.ts';

/** Asked once, when a host starts: none of it changes while the kernel runs. */
export function isolationHere(
  { apparmor, selinux }: Omit<Labelling, 'label'> = chooseLabel(),
): Isolation {
  const always = Object.keys(alwaysEnforced).map((name) => [name, 'enforced'] as const);
  return Object.freeze({
    ...(Object.fromEntries(always) as Record<AlwaysEnforced, 'enforced'>),
    landlock: landlock(),
    'landlock-ports': landlockPorts(),
    apparmor,
    selinux,
  });
}

/** @throws HatchError `host.unsupported` when a layer that must be there is not */
export function requireLayers(isolation: Isolation, required: readonly IsolationLayerName[]): void {
  const missing = isolationLayerNames.filter(
    (name) => required.includes(name) && isolation[name] !== 'enforced',
  );
  if (missing.length === 0) return;
  const states = missing.map((name) => `"${name}" is ${isolation[name]}`);
  throw new HatchError(
    'host.unsupported',
    `Cannot start functions: ${states.join('; ')}. Change the machine, or requireLayers`,
    { details: { missing } },
  );
}

function landlock(): IsolationState {
  return landlockAbi() === undefined ? 'unavailable: not active in this kernel' : 'enforced';
}

function landlockPorts(): IsolationState {
  const abi = landlockAbi();
  if (abi === undefined) return landlock();
  if (abi < portRulesAbi) return `unavailable: needs Landlock ABI ${portRulesAbi}, here is ${abi}`;
  return 'enforced';
}
