import { DiskScratch } from '../../host/storage/disk-scratch.ts';
import { MemoryScratch } from '../../host/storage/memory-scratch.ts';
import { OverlayDriver } from '../../host/storage/overlay.ts';
import { storageSuite } from './storage.ts';

storageSuite(
  'overlay, written to memory',
  (mountPoints) => OverlayDriver.open(new MemoryScratch({ sizeBytes: 64 << 20, mountPoints })),
  { layersMax: 128, limitsSize: true },
);
storageSuite(
  'overlay, written to disk',
  (directory) => OverlayDriver.open(new DiskScratch({ directory, spareCount: 2 })),
  { layersMax: 128, limitsSize: false },
);
// How kernels before Linux 6.8 are told of layers works on newer ones, too.
storageSuite(
  'overlay, layers in one list',
  (directory) => OverlayDriver.open(new DiskScratch({ directory, spareCount: 0 }), 'list'),
  { layersMax: 128, limitsSize: false },
);
