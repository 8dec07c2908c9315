/** What each control verb does, in terms of the parts of the host. */
import type { CallRecord, LogRecord } from '../base/channels.ts';
import { HatchError } from '../base/errors.ts';
import type { Machine } from '../function/limit-fields.ts';
import { parseManifest, refuseBeyondMachine } from '../function/manifest.ts';
import { refuseForeign } from '../function/owner.ts';
import type { FunctionRegistry } from '../function/registry.ts';
import { secretIdOf } from '../function/secret-box.ts';
import type { SecretStore } from '../function/secret-store.ts';
import { burstHandlers } from './burst-handlers.ts';
import type { BurstParts } from './burst-handlers.ts';
import type { Check, ControlAnswer } from './control-api.ts';
import type { ControlHandlers } from './control.ts';
import { deploy } from './deploy.ts';
import type { DeployParts } from './deploy.ts';
import { imageHandlers } from './image-handlers.ts';
import type { ImageParts } from './image-handlers.ts';
import { secretHandlers } from './secret-handlers.ts';
import type { SecretParts } from './secret-handlers.ts';
import { volumeHandlers } from './volume-handlers.ts';
import type { VolumeParts } from './volume-handlers.ts';

export interface ControlParts
  extends
    DeployParts,
    Omit<SecretParts, 'registry'>,
    Omit<BurstParts, 'registry'>,
    Omit<VolumeParts, 'registry'> {
  secrets: SecretParts['secrets'] & Pick<SecretStore, 'require'>;
  /** What limits can be had here. */
  machine: Machine;
  registry: DeployParts['registry'] &
    BurstParts['registry'] &
    Pick<FunctionRegistry, 'list' | 'versions' | 'remove' | 'rollback' | 'setAlias'>;
  images: ImageParts;
  hostName: string;
  /** Ends the calls of that id that are under way here; returns how many. */
  cancelCalls: (requestId: string) => number;
  /** Calls that ended here, as far back as they are kept. */
  findTrace: (requestId: string) => CallRecord | undefined;
  /** Output of functions here, oldest first; the newest `limit` of it. */
  findLogs: (query: {
    functionName: string;
    requestId: string | undefined;
    limit: number;
  }) => LogRecord[];
  status: () => ControlAnswer<'status'>;
  doctor: () => Promise<Check[]>;
}

export function controlHandlers(parts: ControlParts): ControlHandlers {
  return {
    ...listHandlers(parts),
    ...functionHandlers(parts),
    ...secretHandlers(parts),
    ...volumeHandlers(parts),
    ...hostHandlers(parts),
    ...imageHandlers(parts.images, parts.hostName),
    ...burstHandlers(parts),
  };
}

/** Half of what a message may hold by default; JSON adds to the text. */
const logBytesMax = 512 * 1024;

function functionHandlers(
  parts: ControlParts,
): Pick<ControlHandlers, 'deploy' | 'rm' | 'rollback' | 'alias'> {
  const { registry } = parts;
  return {
    deploy: async (request, { tenant: owner }) => {
      const manifest = parseManifest(request.manifest);
      const { name, tenant } = manifest;
      if (owner !== undefined) refuseForeign(name, [{ manifest }], owner);
      refuseBeyondMachine(manifest, parts.machine);
      await parts.secrets.require(
        manifest.secrets.map((secret) => secretIdOf({ tenant, name: secret.name })),
      );
      const done = await deploy(parts, { ...request, manifest, owner });
      const { version, previousVersion, startRecord } = done;
      const previous = previousVersion === undefined ? {} : { previousVersion };
      const layerBytes = version.layer.sizeBytes;
      return {
        name,
        version: version.version,
        ...previous,
        layerBytes,
        images: version.images,
        startRecord,
      };
    },
    rm: async ({ name }, { tenant: owner }) => {
      await registry.remove(name, { owner });
      return {};
    },
    rollback: async ({ name, to }, { tenant: owner }) => {
      const before = await registry.read(name, { owner });
      const { latest } = await registry.rollback(name, to, { owner });
      return { from: before?.latest ?? latest, latest };
    },
    alias: async ({ name, alias, version }, { tenant: owner }) => {
      const { aliases } = await registry.setAlias(name, { alias, version, owner });
      return { aliases };
    },
  };
}

function listHandlers({ registry }: ControlParts): Pick<ControlHandlers, 'ls' | 'versions'> {
  return {
    ls: async () => {
      const states = await registry.list();
      return {
        functions: states.map(({ name, latest, versions, aliases, history }) => {
          const deployedAtMs = history.at(-1)?.atMs ?? 0;
          return { name, latest, versions: versions.length, aliases, deployedAtMs };
        }),
      };
    },
    versions: async ({ name }, { tenant: owner }) => {
      const [versions, state] = await Promise.all([
        registry.versions(name, { owner }),
        registry.read(name),
      ]);
      const aliases = Object.entries(state?.aliases ?? {});
      return {
        versions: versions.map(({ version, layer, images, createdAtMs }) => ({
          version,
          isLatest: version === state?.latest,
          aliases: aliases.filter(([, target]) => target === version).map(([alias]) => alias),
          createdAtMs,
          layerBytes: layer.sizeBytes,
          digest: layer.digest,
          images,
        })),
      };
    },
  };
}

function hostHandlers({
  cancelCalls,
  findTrace,
  findLogs,
  status,
  doctor,
}: ControlParts): Pick<ControlHandlers, 'cancel' | 'trace' | 'logs' | 'status' | 'doctor'> {
  return {
    cancel: ({ requestId }) => ({ cancelled: cancelCalls(requestId) }),
    trace: ({ requestId }) => {
      const record = findTrace(requestId);
      if (record !== undefined) return { record };
      throw new HatchError(
        'trace.not_found',
        `Cannot find a trace of request "${requestId}": only the latest calls are kept`,
      );
    },
    logs: ({ name, requestId, limit }) => ({
      records: newest(findLogs({ functionName: name, requestId, limit })),
    }),
    status,
    doctor: async () => ({ checks: await doctor() }),
  };
}

function newest(records: LogRecord[]): LogRecord[] {
  let bytes = 0;
  const from = records.findLastIndex(({ text }) => {
    bytes += Buffer.byteLength(text) + 200;
    return bytes > logBytesMax;
  });
  return records.slice(from + 1);
}
