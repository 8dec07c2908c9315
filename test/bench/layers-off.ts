/** A container's set-up with one layer of isolation left out: for measuring what it costs. */
import { setupRules } from '../../host/security/setup-rules.ts';
import type { ZygoteSetup } from '../../host/protocol/zygote.ts';
import { buildSeccompFilter } from '../../host/sys/seccomp.ts';

export type OmittedLayer = 'landlock' | 'seccomp' | 'label';

export function setupWithout(layer: OmittedLayer | undefined): Partial<ZygoteSetup> {
  if (layer === 'landlock') return { landlockAbi: 0 };
  if (layer === 'label') return { label: undefined };
  return layer === 'seccomp' ? { seccomp: noProfile() } : {};
}

/**
 * Two filters of a few instructions take the place of the profile: libuv would not survive the fork
 * of an io_uring, and a start checks that its last filter refuses `unshare`.
 */
function noProfile(): ZygoteSetup['seccomp'] {
  const architecture = process.arch === 'arm64' ? 'arm64' : 'x64';
  const filter = (call: string, errno: 'ENOSYS' | 'EPERM'): string => {
    const tests = setupRules.find((rule) => rule.call === call)?.tests ?? [];
    const rules = [{ call, tests, action: { errno } }];
    return buildSeccompFilter({ architecture, defaultAction: 'allow', rules }).toString('base64');
  };
  const seal = filter('unshare', 'EPERM');
  return { base: filter('io_uring_setup', 'ENOSYS'), seals: { node: seal, strict: seal } };
}
