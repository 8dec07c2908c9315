/** Reads and writes a directory in the OCI image layout: blobs by digest, and an index of names. */
import {
  chmod,
  copyFile,
  link,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { HatchError } from '../base/errors.ts';
import { isErrno } from '../sys/errors.ts';
import { digestOf, hexOf } from './digest.ts';
import type { Digest } from './digest.ts';
import { documentBytesMax, findImage } from './image-documents.ts';
import type { ImageDocuments } from './image-documents.ts';
import { mediaType, parseIndex, referenceAnnotation, selectEntry } from './manifest.ts';
import type { Descriptor, Platform } from './manifest.ts';

/** An image found in a layout. */
export interface LayoutImage extends ImageDocuments {
  reference: string | undefined;
}

/** The serialised configuration of an image, as the OCI specification has it. */
export interface ConfigDocument {
  architecture: string;
  os: string;
  created?: string;
  config: Record<string, unknown>;
  rootfs: { type: 'layers'; diff_ids: Digest[] };
  history?: { created_by: string }[];
}

const layoutFile = '{"imageLayoutVersion":"1.0.0"}';

export async function readImage(
  directory: string,
  wanted: { platform: Platform; reference?: string },
): Promise<LayoutImage> {
  const indexBytes = await readWhole(join(directory, 'index.json'), directory);
  const entry = selectEntry(parseIndex(indexBytes), wanted);
  const reference = entry.annotations?.[referenceAnnotation] ?? wanted.reference;
  const image = await findImage({
    entry,
    platform: wanted.platform,
    where: `"${directory}"`,
    read: ({ digest }) => readWhole(blobPath(directory, digest), directory),
  });
  return { ...image, reference };
}

/** Where a blob is; whoever reads it checks its digest. */
export function blobPath(directory: string, digest: Digest): string {
  return join(directory, 'blobs', 'sha256', hexOf(digest));
}

/**
 * Writes an image of layer blobs that exist as files into a layout directory of its own, replacing
 * what is there. Blobs are hard links where the file system allows. Returns the manifest's digest.
 */
export async function writeImage(options: {
  directory: string;
  reference: string;
  platform: Platform;
  config: ConfigDocument;
  layers: { file: string; descriptor: Descriptor }[];
}): Promise<Digest> {
  const { directory } = options;
  // The index is what makes the directory a layout: it goes first and comes back last.
  await rm(join(directory, 'index.json'), { force: true });
  await rm(join(directory, 'blobs'), { recursive: true, force: true });
  await mkdir(join(directory, 'blobs', 'sha256'), { recursive: true });
  for (const { file, descriptor } of options.layers)
    await linkOrCopy(file, blobPath(directory, descriptor.digest));
  const config = await writeDocument(directory, mediaType.config, options.config);
  const manifest = await writeDocument(directory, mediaType.manifest, {
    schemaVersion: 2,
    mediaType: mediaType.manifest,
    config,
    layers: options.layers.map(({ descriptor }) => descriptor),
  });
  const index = {
    schemaVersion: 2,
    mediaType: mediaType.index,
    manifests: [
      {
        ...manifest,
        platform: options.platform,
        annotations: { [referenceAnnotation]: options.reference },
      },
    ],
  };
  await writeFile(join(directory, 'oci-layout'), layoutFile);
  await writeFile(join(directory, 'index.json.new'), JSON.stringify(index));
  await rename(join(directory, 'index.json.new'), join(directory, 'index.json'));
  return manifest.digest;
}

async function writeDocument(
  directory: string,
  type: string,
  document: unknown,
): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = digestOf(bytes);
  await writeFile(blobPath(directory, digest), bytes);
  return { mediaType: type, digest, size: bytes.length };
}

async function readWhole(path: string, directory: string): Promise<Buffer> {
  try {
    const { size } = await statOf(path);
    if (size > documentBytesMax)
      throw new HatchError(
        'image.invalid',
        `Cannot use image in "${directory}": "${path}" is larger than ${documentBytesMax} bytes`,
      );
    return await readFile(path);
  } catch (cause) {
    if (!isErrno(cause, 'ENOENT', 'ENOTDIR')) throw cause;
    throw new HatchError(
      'image.not_found',
      `Cannot find an OCI image layout in "${directory}": "${path}" is missing`,
      { cause },
    );
  }
}

async function statOf(path: string): Promise<{ size: number }> {
  await using file = await open(path);
  return await file.stat();
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    // The same blob twice in one image is the same file.
    if (isErrno(error, 'EEXIST')) return;
    if (!isErrno(error, 'EXDEV', 'EPERM', 'EMLINK')) throw error;
    await copyFile(from, to);
    await chmod(to, 0o444);
  }
}
