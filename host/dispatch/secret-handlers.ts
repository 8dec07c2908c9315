/** What the control verbs of secrets do. */
import { HatchError } from '../base/errors.ts';
import type { FunctionRegistry } from '../function/registry.ts';
import type { SecretKeys } from '../function/secret-keys.ts';
import type { SecretStore } from '../function/secret-store.ts';
import type { ControlHandlers } from './control.ts';

export interface SecretParts {
  registry: Pick<FunctionRegistry, 'list' | 'versions'>;
  secrets: Pick<SecretStore, 'list' | 'put' | 'remove' | 'reseal'>;
  secretKeys: Pick<SecretKeys, 'publicKey' | 'ids'>;
}

export type SecretVerb = 'secret.key' | 'secret.ls' | 'secret.set' | 'secret.rm' | 'secret.rotate';

export function secretHandlers({
  registry,
  secrets,
  secretKeys,
}: SecretParts): Pick<ControlHandlers, SecretVerb> {
  const usersBySecret = async (): Promise<Map<string, Set<string>>> => {
    const users = new Map<string, Set<string>>();
    for (const { name } of await registry.list())
      for (const { manifest } of await registry.versions(name))
        for (const secret of manifest.secrets)
          users.set(secret.name, (users.get(secret.name) ?? new Set()).add(name));
    return users;
  };
  return {
    'secret.key': () => ({ publicKey: secretKeys.publicKey, keyIds: secretKeys.ids }),
    'secret.ls': async () => {
      const [stored, users] = await Promise.all([secrets.list(), usersBySecret()]);
      const usedBy = (name: string): string[] => [...(users.get(name) ?? [])];
      return { secrets: stored.map((secret) => ({ ...secret, usedBy: usedBy(secret.name) })) };
    },
    'secret.set': ({ name, box }) => secrets.put(name, box),
    'secret.rm': async ({ name }) => {
      const [user] = (await usersBySecret()).get(name) ?? [];
      if (user !== undefined) {
        throw new HatchError(
          'secret.in_use',
          `Cannot remove secret "${name}": function "${user}" has a version that uses it; remove ` +
            'the function, or deploy it without until no version is left that does',
        );
      }
      await secrets.remove(name);
      return {};
    },
    'secret.rotate': async () => ({ resealed: await secrets.reseal() }),
  };
}
