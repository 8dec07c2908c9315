/** What the control verbs of volumes do, on each host for its own. */
import { HatchError } from '../base/errors.ts';
import type { FunctionRegistry } from '../function/registry.ts';
import type { Volumes } from '../storage/volumes.ts';
import type { ControlVerb } from './control-api.ts';
import type { ControlHandlers } from './control.ts';

export interface VolumeParts {
  registry: Pick<FunctionRegistry, 'read' | 'versions'>;
  volumes: Pick<Volumes, 'list' | 'remove'>;
}

type VolumeVerb = Extract<ControlVerb, `volume.${string}`>;

export function volumeHandlers({
  registry,
  volumes,
}: VolumeParts): Pick<ControlHandlers, VolumeVerb> {
  /** The names of those that a version of the function has. */
  const usedBy = async (functionName: string, tenant: string): Promise<Set<string>> => {
    if ((await registry.read(functionName)) === undefined) return new Set();
    const versions = await registry.versions(functionName);
    const mine = versions.filter(({ manifest }) => manifest.tenant === tenant);
    return new Set(mine.flatMap(({ manifest }) => manifest.volumes.map(({ name }) => name)));
  };
  return {
    'volume.ls': async (_request, scope) => {
      const mine = volumes.list().filter(({ tenant }) => tenant === (scope.tenant ?? tenant));
      const listed = mine.map(async (volume) => {
        const used = await usedBy(volume.functionName, volume.tenant);
        return { ...volume, isUsed: used.has(volume.name) };
      });
      return { volumes: await Promise.all(listed) };
    },
    'volume.rm': async ({ functionName, name }, { tenant = 'default' }) => {
      if ((await usedBy(functionName, tenant)).has(name)) {
        throw new HatchError(
          'volume.in_use',
          `Cannot remove volume "${name}": a version of function "${functionName}" has it; ` +
            'remove the function, or deploy it without until no version is left that does',
        );
      }
      return { isRemoved: await volumes.remove({ tenant, functionName, name }) };
    },
  };
}
