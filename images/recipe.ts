/** `images/<name>/image.json`: what a base image consists of. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HatchError } from '../host/base/errors.ts';

/** Relative to the image's root. A component `*` stands for any one name. */
const path = z.string().regex(/^[^/]+(?:\/[^/]+)*$/, 'must be a path without leading slash');
const mode = z
  .string()
  .regex(/^[0-7]{4}$/, 'must be four octal digits')
  .transform((digits) => Number.parseInt(digits, 8));
const id = z.int().min(0).max(65535);
const strings = z.record(z.string(), z.string());

const recipeSchema = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9-]*$/),
  debian: z.strictObject({
    /** Exactly these: dependencies are not followed. */
    packages: z.array(z.string().regex(/^[a-z0-9][a-z0-9+.-]+$/)).min(1),
    /** By package, the paths to take when it is not all. */
    keepOnly: z.record(z.string(), z.array(path)).default({}),
    /** Paths to leave out, with all below them. */
    drop: z.array(path).default([]),
  }),
  users: z.array(z.strictObject({ name: z.string(), uid: id, gid: id, home: z.string() })),
  directories: z.array(z.strictObject({ path, mode, uid: id.default(0), gid: id.default(0) })),
  /** Path to target. A directory of packages that is a symlink here is merged into its target. */
  symlinks: z.record(path, z.string()),
  /** Path to content. */
  files: z.record(path, z.string()),
  env: strings,
  user: z.string(),
  workingDirectory: z.string(),
  entrypoint: z.array(z.string()),
  labels: strings,
});

export type Recipe = z.infer<typeof recipeSchema>;

/** Reads the recipe of an image in `images/`. Throws `image.not_found` or `image.invalid`. */
export async function readRecipe(name: string): Promise<Recipe> {
  const file = join(import.meta.dirname, name, 'image.json');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new HatchError('image.not_found', `Cannot read the recipe "${file}"`, { cause });
  }
  return parseRecipe(text, file);
}

export function parseRecipe(text: string, file: string): Recipe {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new HatchError('image.invalid', `Cannot read the recipe "${file}": it is no JSON`, {
      cause,
    });
  }
  const result = recipeSchema.safeParse(json);
  if (result.success) return result.data;
  throw new HatchError(
    'image.invalid',
    `Cannot read the recipe "${file}": ${z.prettifyError(result.error)}`,
  );
}
