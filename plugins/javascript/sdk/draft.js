// The state of one key during a call: its current value, list and timer, and those before the current event, which a rejection restores.

import { Column, NO_TIME } from './columns.js';

const KEEP = 0;
const PUT = 1;
const APPEND = 1;
const CLEAR = 2;
const CLEAR_THEN_APPEND = 3;

/** A key's state during a call. One draft serves all keys of a call. */
export class Draft {
  /** The items that the call appends, of all keys. */
  list = new Column();
  /** The encoded value that was put; null while the value is still the one from the host. */
  #put = null;
  #present = false;
  valueChange = KEEP;
  listChange = KEEP;
  timer = NO_TIME;
  #timerSet = false;
  /** Index of this key's first live item: earlier ones were appended in this call and then cleared. */
  #liveFrom = 0;
  /** Index of this key's first item among the items that the call appends. */
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

  /** Begins an event or firing, which `undo` can undo. */
  beginEvent() {
    this.#before = null;
  }

  /** Before the first change of an event, saves the state that a rejection restores. */
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

  /** Whether the timer is due at this watermark. Without a watermark, no timer is due. */
  isDue(watermark) {
    return this.timer !== NO_TIME && watermark !== NO_TIME && watermark >= this.timer;
  }

  read(codec) {
    if (!this.#present) return undefined;
    return this.#put === null ? codec.read(this.#call.values, this.#call.key) : codec.readBack(this.#put);
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

  /** Returns the encoded value to put. */
  written() {
    return this.valueChange === PUT ? this.#put : '';
  }

  /** Writes the timer into a column, as two halves. An unchanged timer is copied, because it can be beyond 2^53. */
  writeTimer(words, given, key) {
    if (!this.#timerSet && this.timer !== NO_TIME) {
      words[2 * key] = given[2 * key];
      words[2 * key + 1] = given[2 * key + 1];
      return;
    }
    const high = Math.floor(this.timer / 4294967296);
    words[2 * key + 1] = high;
    words[2 * key] = this.timer - high * 4294967296;
  }
}
