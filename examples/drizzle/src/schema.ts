import { foreignKey, integer, pgTable, text, timestamp, unique } from "drizzle-orm/pg-core";

// The tables of the application. The CDC tables (_cdc_users, _cdc_roles, _cdc_permissions) are not here:
// drizzle-kit does not know them, and `drizzle-kit push` drops what it does not know.

export const roles = pgTable(
  "roles",
  {
    id: integer().primaryKey().generatedAlwaysAsIdentity(),
    name: text().notNull(),
  },
  (table) => [unique("roles_name_key").on(table.name)],
);

export const users = pgTable(
  "users",
  {
    id: integer().primaryKey().generatedAlwaysAsIdentity(),
    email: text().notNull(),
    name: text().notNull(),
    roleId: integer("role_id"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [
    unique("users_email_key").on(table.email),
    foreignKey({ name: "users_role_id_fkey", columns: [table.roleId], foreignColumns: [roles.id] }),
  ],
);

export const permissions = pgTable(
  "permissions",
  {
    id: integer().primaryKey().generatedAlwaysAsIdentity(),
    roleId: integer("role_id").notNull(),
    action: text().notNull(),
  },
  // No unique constraint over two columns: drizzle-kit 0.31 reads its columns in no certain order, and then asks.
  (table) => [foreignKey({ name: "permissions_role_id_fkey", columns: [table.roleId], foreignColumns: [roles.id] })],
);
