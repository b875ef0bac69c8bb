// What becomes of one key during a call: its value, list and timer as they stand, and as they stood before the present event, which a
// rejection brings back.

import { Column, NONE } from './columns.js';

const KEEP = 0;
const PUT = 1;
const APPEND = 1;
const CLEAR = 2;
const CLEAR_THEN_APPEND = 3;

/** A key's state in the making; one is used for all keys of a call. */
export class Draft {
  /** The items that the call appends, of all keys. */
  list = new Column();
  /** The value that was put, as written; null while it is the one that the host gave. */
  #put = null;
  #present = false;
  valueChange = KEEP;
  listChange = KEEP;
  timer = NONE;
  #timerSet = false;
  /** Items of this key before this one were cleared after they had been appended. */
  #liveFrom = 0;
  /** Where this key's items begin among those that the call appends. */
  #firstItem = 0;
  #before = null;
  #call = null;

  beginKey(call, timer) {
    this.#call = call;
    this.#put = null;
    this.#present = call.present[call.key] !== 0;
    this.valueChange = KEEP;
    this.listChange = KEEP;
    this.timer = timer;
    this.#timerSet = false;
    this.#firstItem = this.#liveFrom = this.list.length;
  }

  /** What follows can be undone. */
  beginEvent() {
    this.#before = null;
  }

  /** Remembers, before the first change of an event, what a rejection brings back. */
  #remember() {
    this.#before ??= [
      this.#put, this.#present, this.valueChange, this.listChange, this.timer, this.#timerSet, this.#liveFrom, this.list.length,
    ];
  }

  undo() {
    if (this.#before === null) return;
    let items;
    [this.#put, this.#present, this.valueChange, this.listChange, this.timer, this.#timerSet, this.#liveFrom, items] = this.#before;
    this.list.truncate(items);
    this.#before = null;
  }

  /** Whether the timer is due at this watermark; none is due before there is one. */
  isDue(watermark) {
    return this.timer !== NONE && watermark !== NONE && watermark >= this.timer;
  }

  read(codec) {
    if (!this.#present) return undefined;
    return this.#put === null ? codec.read(this.#call.values, this.#call.key) : codec.again(this.#put);
  }

  put(written) {
    this.#remember();
    this.#put = written;
    this.#present = true;
    this.valueChange = PUT;
  }

  clearValue() {
    this.#remember();
    this.#present = false;
    this.valueChange = CLEAR;
  }

  append(written) {
    this.#remember();
    this.list.push(written);
    this.listChange = this.listChange === KEEP || this.listChange === APPEND ? APPEND : CLEAR_THEN_APPEND;
  }

  clearItems() {
    this.#remember();
    this.#liveFrom = this.list.length;
    this.listChange = CLEAR;
  }

  setTimer(time) {
    this.#remember();
    this.timer = time;
    this.#timerSet = true;
  }

  /** Drops the items that were appended and then cleared. */
  endKey() {
    if (this.#liveFrom > this.#firstItem) this.list.remove(this.#firstItem, this.#liveFrom);
  }

  /** The value to put. */
  written() {
    return this.valueChange === PUT ? this.#put : '';
  }

  /** The timer in a column of halves of numbers. One that was left alone goes back as it came, be it beyond 2^53. */
  writeTimer(words, given, key) {
    if (!this.#timerSet && this.timer !== NONE) {
      words[2 * key] = given[2 * key];
      words[2 * key + 1] = given[2 * key + 1];
      return;
    }
    const high = Math.floor(this.timer / 4294967296);
    words[2 * key + 1] = high;
    words[2 * key] = this.timer - high * 4294967296;
  }
}
