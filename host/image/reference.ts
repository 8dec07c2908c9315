/** Names of images: `node24`, `example.org:5000/team/app:1.2`, `app@sha256:…`. */
import { HatchError } from '../base/errors.ts';
import { isDigest } from './digest.ts';
import type { Digest } from './digest.ts';

export interface Reference {
  /** `host[:port]`; undefined for an image that is known on this machine only. */
  registry: string | undefined;
  /** Path components joined by slashes. */
  repository: string;
  tag: string | undefined;
  digest: Digest | undefined;
}

const lengthMax = 512;
const component = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const label = '[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?';
const registryPattern = new RegExp(String.raw`^${label}(?:\.${label})*(?::\d{1,5})?$`);

/** Throws `image.invalid`. No registry and no tag are made up: the caller has the defaults. */
export function parseReference(text: string): Reference {
  if (text.length > lengthMax) throw invalid(text, `it is longer than ${lengthMax} characters`);
  const [named = '', digest, ...more] = text.split('@');
  if (more.length > 0 || (digest !== undefined && !isDigest(digest)))
    throw invalid(text, 'what follows "@" must be "sha256:" and 64 hexadecimal digits');
  const slash = named.indexOf('/');
  const first = named.slice(0, Math.max(slash, 0));
  const isRegistry = first === 'localhost' || /[.:]/.test(first);
  if (isRegistry && !registryPattern.test(first)) throw invalid(text, `"${first}" is no host`);
  const path = isRegistry ? named.slice(slash + 1) : named;
  const colon = path.lastIndexOf(':');
  const repository = colon === -1 ? path : path.slice(0, colon);
  const tag = colon === -1 ? undefined : path.slice(colon + 1);
  if (tag !== undefined && !tagPattern.test(tag)) throw invalid(text, `"${tag}" is no tag`);
  if (!repository.split('/').every((part) => component.test(part)))
    throw invalid(text, `"${repository}" must be lower-case names, separated by "/"`);
  return { registry: isRegistry ? first : undefined, repository, tag, digest };
}

export function formatReference(reference: Reference): string {
  const registry = reference.registry === undefined ? '' : `${reference.registry}/`;
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${registry}${reference.repository}${tag}${digest}`;
}

function invalid(text: string, reason: string): HatchError {
  return new HatchError(
    'image.invalid',
    `Cannot use image reference "${text.slice(0, 100)}": ${reason}`,
  );
}
