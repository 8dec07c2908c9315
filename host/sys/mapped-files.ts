/** Which parts of files a process has mapped and touched (proc_pid_pagemap(5)); needs root. */
import { createReadStream } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import { pageBytes } from './page-cache.ts';

/** A process that means harm maps more than a host has time and memory to look at. */
export interface MappingBounds {
  /** Of its list of mappings: the rest is not read. */
  listBytesMax?: number;
  /** Of all mappings: those that would go beyond it are passed over. */
  pagesMax?: number;
}

const entryBytes = 8;
/** Of the entry's last byte: bit 63 and bit 61. */
const present = 0x80;
const ofFile = 0x20;
/** Address range, mode, offset, device, inode, path; what has no path is of no file. */
const mapping = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ +(\/.*)$/;

/** Offsets of pages by path as the process sees it. Rejects when it ends meanwhile. */
export async function touchedPages(
  pid: number,
  { listBytesMax = 2 ** 20, pagesMax = 2 ** 17 }: MappingBounds = {},
): Promise<Map<string, Set<number>>> {
  const list = createReadStream(`/proc/${pid}/maps`, { end: listBytesMax - 1 });
  const lines = (await buffer(list)).toString('latin1').split('\n');
  await using pagemap = await open(`/proc/${pid}/pagemap`);
  const files = new Map<string, Set<number>>();
  let leftPages = pagesMax;
  for (const line of lines) {
    const [, from = '', to = '', offset = '', path = ''] = mapping.exec(line) ?? [];
    const start = Number.parseInt(from, 16);
    const pages = (Number.parseInt(to, 16) - start) / pageBytes;
    if (path === '' || pages > leftPages) continue;
    leftPages -= pages;
    const entries = Buffer.alloc(pages * entryBytes);
    await pagemap.read(entries, 0, entries.length, (start / pageBytes) * entryBytes);
    const touched = files.get(path) ?? new Set();
    for (let page = 0; page < pages; page++) {
      const flags = entries[page * entryBytes + entryBytes - 1] ?? 0;
      if ((flags & present) === 0 || (flags & ofFile) === 0) continue;
      touched.add(Number.parseInt(offset, 16) + page * pageBytes);
    }
    files.set(path, touched);
  }
  return files;
}

export async function parentOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'latin1');
  return Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1] ?? 0);
}
