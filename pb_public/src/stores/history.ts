// Commands that were typed into a console, for the arrow keys. Kept for the session of the tab.
const MAX_COMMANDS = 100;

export class CommandHistory {
  private list: string[] = [];
  private at = 0; // index of what is shown; list.length = the line being typed
  private draft = '';

  push(command: string): void {
    if (this.list.at(-1) !== command) this.list.push(command);
    this.list = this.list.slice(-MAX_COMMANDS);
    this.at = this.list.length;
    this.draft = '';
  }

  /** What the arrow up key shows, given what is in the field. */
  older(current: string): string {
    if (this.at === this.list.length) this.draft = current;
    if (this.at > 0) this.at--;
    return this.list[this.at] ?? current;
  }

  /** What the arrow down key shows. After the newest command comes what was being typed. */
  newer(current: string): string {
    if (this.at >= this.list.length) return current;
    this.at++;
    return this.list[this.at] ?? this.draft;
  }
}
