/**
 * A deploy makes before it breaks: the version is written, its layer unpacked and one instance
 * started here, and only then calls are led to it. Whatever fails leaves the function as it was.
 */
import type { StartRecord } from '../base/channels.ts';
import { HatchError, messageOf, toHatchError } from '../base/errors.ts';
import type { FunctionManifest } from '../function/manifest.ts';
import type { Owned } from '../function/owner.ts';
import type { FunctionImages, FunctionVersion } from '../function/record.ts';
import type { FunctionRegistry } from '../function/registry.ts';
import type { LayerBlob } from '../image/layer-tar.ts';
import type { ImagePuller } from '../image/pull.ts';
import type { DispatchLog } from './dispatcher.ts';
import type { InstancePool } from './instance-pool.ts';
import type { PoolFunction } from '../pool/pool-function.ts';

export interface DeployParts {
  registry: Pick<FunctionRegistry, 'read' | 'publish' | 'activate' | 'discard'>;
  functions: {
    load(version: FunctionVersion): Promise<PoolFunction>;
    unload(name: string, version: string): Promise<void>;
  };
  images: {
    /** Throws `image.*`. */
    puller: Pick<ImagePuller, 'resolve'>;
  };
  pool: Pick<InstancePool, 'prepare'>;
  log: DispatchLog;
}

export interface DeployRequest extends Owned {
  manifest: FunctionManifest;
  entryPath: string;
  /** Already in the object store. */
  layer: LayerBlob;
}

export interface Deployed {
  version: FunctionVersion;
  /** The latest version until now; undefined for a new function. */
  previousVersion: string | undefined;
  /** Of the instance that proved that the version starts. */
  startRecord: StartRecord;
}

/**
 * @throws HatchError `deploy.invalid`, `deploy.conflict` when somebody else deployed meanwhile,
 *   `request.forbidden` when the function is another tenant's,
 *   `deploy.failed` when the function does not load, `image.*` and `host.*` when the host can't
 */
export async function deploy(
  parts: DeployParts,
  { owner, ...request }: DeployRequest,
): Promise<Deployed> {
  const { registry, functions, pool } = parts;
  const { name } = request.manifest;
  const before = await registry.read(name, { owner });
  const images = await resolveImages(parts, request.manifest);
  const version = await registry.publish({ ...request, images });
  try {
    const startRecord = await pool.prepare(await functions.load(version));
    await registry.activate(name, version.version, before?.revision ?? 0);
    return { version, previousVersion: before?.latest, startRecord };
  } catch (error) {
    await undo(parts, version);
    throw deployError(name, error);
  }
}

/** A tag may stand for another image tomorrow, a version always has the same. */
async function resolveImages(
  { images: { puller } }: DeployParts,
  { image, layers }: FunctionManifest,
): Promise<FunctionImages> {
  const resolved = await Promise.all(layers.map((name) => puller.resolve(name)));
  if (image === undefined) return { layers: resolved };
  return { image: await puller.resolve(image), layers: resolved };
}

/** What cannot be undone is harmless, for no call reaches the version; but somebody should know. */
async function undo({ registry, functions, log }: DeployParts, version: FunctionVersion) {
  const steps = [
    () => functions.unload(version.name, version.version),
    () => registry.discard(version.name, version.version),
  ];
  for (const step of steps) {
    await step().catch((error: unknown) => {
      const facts = { function: version.name, version: version.version, error: messageOf(error) };
      log.warn(facts, 'Cannot clear away a failed deploy');
    });
  }
}

function deployError(name: string, cause: unknown): HatchError {
  const error = toHatchError(cause);
  if (!error.code.startsWith('function.')) return error;
  return new HatchError('deploy.failed', `Cannot deploy "${name}": ${error.message}`, {
    cause: error,
    details: { ...error.details, reason: error.code },
  });
}
