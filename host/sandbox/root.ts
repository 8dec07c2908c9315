/** A container's root, by the driver that its function has chosen. */
import { join } from 'node:path';
import type { IdRange, IdRanges } from '../namespace/id-ranges.ts';
import type { StorageName, WritableRoot } from '../storage/storage-driver.ts';
import type { StorageDrivers } from '../storage/storage-drivers.ts';

export interface RootOrder {
  /** Directory names in the layer store, bottom first. */
  layerNames: readonly string[];
  /** Undefined: the host's choice. */
  storage: StorageName | undefined;
}

export function createRoot(
  parts: { storage: Pick<StorageDrivers, 'of'>; idRanges: IdRanges },
  container: { id: string; range: IdRange },
  { storage, layerNames }: RootOrder,
): WritableRoot {
  const driver = parts.storage.of(storage);
  const { firstHostId, userNamespaceFd, layersDirectory } = container.range;
  const below = driver.mapsOwners ? parts.idRanges.layersDirectory : layersDirectory;
  return driver.createRoot({
    id: container.id,
    lowerDirectories: layerNames.map((name) => join(below, name)),
    ownerUid: firstHostId,
    ownerGid: firstHostId,
    userNamespaceFd,
  });
}
