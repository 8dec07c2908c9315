/** `WWW-Authenticate` (RFC 9110): which proofs a registry takes. */

export interface Challenge {
  /** In lower case: `basic`, `bearer`. */
  scheme: string;
  /** By names in lower case. */
  parameters: Map<string, string>;
}

// A parameter, or else the next scheme; quoted values may hold commas and escaped quotes.
const part = /([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+)))?\s*,?\s*/y;

/** What cannot be read ends the list: the challenges before it still count. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  part.lastIndex = 0;
  const text = header.trim();
  for (let match = part.exec(text); match !== null; match = part.exec(text)) {
    const [, name = '', quoted, plain] = match;
    const value = quoted?.replaceAll(/\\(.)/g, '$1') ?? plain;
    if (value === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: new Map() });
    else challenges.at(-1)?.parameters.set(name.toLowerCase(), value);
    if (part.lastIndex === text.length) break;
  }
  return challenges;
}
