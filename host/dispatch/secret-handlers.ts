/** What the control verbs of secrets do. */
import { HatchError } from '../base/errors.ts';
import type { FunctionRegistry } from '../function/registry.ts';
import type { SecretKeys } from '../function/secret-keys.ts';
import type { SecretStore } from '../function/secret-store.ts';
import { secretIdOf, secretOf } from '../function/secret-box.ts';
import type { ControlHandlers } from './control.ts';
import type { ControlScope } from './control-api.ts';

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
        for (const secret of manifest.secrets) {
          const id = secretIdOf({ tenant: manifest.tenant, name: secret.name });
          users.set(id, (users.get(id) ?? new Set()).add(name));
        }
    return users;
  };
  return {
    'secret.key': () => ({ publicKey: secretKeys.publicKey, keyIds: secretKeys.ids }),
    'secret.ls': async (_request, scope) => {
      const [stored, users] = await Promise.all([secrets.list(), usersBySecret()]);
      const all = stored.map((secret) => {
        return { ...secret, ...secretOf(secret.name), usedBy: [...(users.get(secret.name) ?? [])] };
      });
      return { secrets: all.filter(({ tenant }) => tenant === (scope.tenant ?? tenant)) };
    },
    'secret.set': ({ name, box }, scope) => secrets.put(idIn(scope, name), box),
    'secret.rm': async ({ name }, scope) => {
      const id = idIn(scope, name);
      const [user] = (await usersBySecret()).get(id) ?? [];
      if (user !== undefined) {
        throw new HatchError(
          'secret.in_use',
          `Cannot remove secret "${name}": function "${user}" has a version that uses it; remove ` +
            'the function, or deploy it without until no version is left that does',
        );
      }
      await secrets.remove(id);
      return {};
    },
    'secret.rotate': async () => ({ resealed: await secrets.reseal() }),
  };
}

/** The subject tells whose it is, as permissions are by subject: no request can say otherwise. */
function idIn({ tenant = 'default' }: ControlScope, name: string): string {
  return secretIdOf({ tenant, name });
}
