-- The database as this project finds it: the application's tables exactly as `drizzle-kit push` makes them
-- from src/schema.ts, and beside them the CDC tables that Drizzle does not know.

BEGIN;

CREATE TABLE roles (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    CONSTRAINT roles_name_key UNIQUE (name)
);

CREATE TABLE users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL,
    name text NOT NULL,
    role_id integer,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_role_id_fkey FOREIGN KEY (role_id) REFERENCES roles (id)
);

CREATE TABLE permissions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role_id integer NOT NULL,
    action text NOT NULL,
    CONSTRAINT permissions_role_id_fkey FOREIGN KEY (role_id) REFERENCES roles (id)
);

CREATE TABLE _cdc_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    old jsonb,
    new jsonb
);

CREATE TABLE _cdc_roles (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    old jsonb,
    new jsonb
);

CREATE TABLE _cdc_permissions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    old jsonb,
    new jsonb
);

CREATE FUNCTION record_users_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO _cdc_users (operation, old, new) VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END
$$;

CREATE FUNCTION record_roles_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO _cdc_roles (operation, old, new) VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END
$$;

CREATE FUNCTION record_permissions_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO _cdc_permissions (operation, old, new) VALUES (TG_OP, to_jsonb(OLD), to_jsonb(NEW));
    RETURN NULL;
END
$$;

CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION record_users_change();

CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON roles
    FOR EACH ROW EXECUTE FUNCTION record_roles_change();

CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON permissions
    FOR EACH ROW EXECUTE FUNCTION record_permissions_change();

COMMIT;
