/** Names of functions are there for all tenants together: the first one that deploys has it. */
import { HatchError } from '../base/errors.ts';
import type { FunctionVersion } from './record.ts';

export interface Owned {
  /** The tenant that asks; undefined: who may speak for all. */
  owner?: string | undefined;
}

/** @throws HatchError `request.forbidden` when a version is another tenant's */
export function refuseForeign(
  name: string,
  versions: readonly Pick<FunctionVersion, 'manifest'>[],
  owner: string,
): void {
  if (versions.every(({ manifest }) => manifest.tenant === owner)) return;
  throw new HatchError(
    'request.forbidden',
    `Cannot do this to function "${name}" for tenant "${owner}": it is another tenant's; ` +
      `set "tenant": "${owner}" in function.json, or take another name`,
  );
}
